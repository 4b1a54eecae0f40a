"""The command that times backbones."""

import json
from functools import partial

import cv2
import pytest
from commands import CONFIG, ROOT

NANO = str(ROOT / CONFIG)
HRNET = str(next((ROOT / "configs").rglob("*hrnet*.py")))
SMALL = ["--size", "32", "40", "--repeats", "1", "--tasks", "2", "1", "--no-memory"]


@pytest.fixture
def benchmark(run_tool):
    return partial(run_tool, "tools/analysis_tools/benchmark.py")


@pytest.mark.parametrize("mode", ["encoder", "infer", "train"])
def test_json_and_picture(benchmark, tmp_path, mode):
    picture = tmp_path / "new/cost.png"
    output = benchmark(NANO, "--mode", mode, "--json", "--out", picture, *SMALL)
    records = json.loads(output.out)
    assert [record["tasks"] for record in records] == [1, 2]
    for record in records:
        expected = dict(config=NANO, mode=mode, passes="shared", batch=1, size=[32, 40])
        assert expected.items() <= record.items()
        assert 0 < record["min_s"] <= record["median_s"]
    assert records[0]["ratio"] == 1
    assert cv2.imread(str(picture)).shape[0] > 300


def test_the_stock_composition_next_to_ours(benchmark, tmp_path):
    picture = tmp_path / "reference.png"
    arguments = ["--mode", "train", "--reference", "--ablate", "--json", "--out", picture]
    records = json.loads(benchmark(NANO, *arguments, *SMALL).out)
    cells = [(record["variant"], record["tasks"]) for record in records]
    variants = ["ours", "stock", "stock_full", "mmseg_encoder", "concatenating_heads",
                "usual_losses"]  # fmt: skip
    assert cells == [(v, t) for t in (1, 2) for v in variants]
    stock, full = (record["gflop"] for record in records[7:9])
    assert stock < full  # which computes gradients of all weights
    keys = {"config", "variant", "mode", "tasks", "batch", "size", "median_s", "images_per_s",
            "peak_mem_bytes", "gflop"}  # fmt: skip
    assert keys <= records[0].keys()
    assert cv2.imread(str(picture)).shape[0] > 300


@pytest.mark.processes
def test_peak_memory(benchmark):
    small = [argument for argument in SMALL if argument not in ("--no-memory", "2")]
    (record,) = json.loads(benchmark(NANO, "--amp", "--json", *small).out)
    assert record["peak_mem_bytes"] > 1e7
    assert record["amp"]


def test_table_and_file(benchmark, tmp_path):
    output = benchmark(NANO, *SMALL, "--json", tmp_path / "cost.json").out
    assert len(json.loads((tmp_path / "cost.json").read_text())) == 2
    assert "encoder: 1 image(s)" in output and "32 x 40" in output
    assert output.count("vmt_swin-nano_shapes") == 2
    assert "ratio to 1 task" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.py"], "none.py: no such config file"),
        ([NANO, *SMALL, "--json", "own.py"], "--json must be a .json file, got own.py"),
        ([NANO, *SMALL, "--out", "cost.none"], "--out cost.none: cannot write this image format"),
        ([NANO, *SMALL, "--out", "own.py/cost.png"], "own.py: cannot write there"),
        ([NANO, *SMALL, "--json", "folder.json"], "folder.json: is a folder; expected a file"),
        ([NANO, "--threads", "0"], "--threads must be 1 or more, got 0"),
        ([NANO, *SMALL, "--repeats", "0"], "`repeats` must be 1 or more, got 0"),
        (
            [HRNET, *SMALL, "--reference"],
            "need a MultiTaskSwin with MLPHeads, not MultiTaskSwin, HRNetHead",
        ),
    ],
)
def test_wrong_arguments_are_one_line(benchmark, tmp_path, arguments, message):
    (tmp_path / "own.py").write_text("a config that must stay")
    (tmp_path / "folder.json").mkdir()
    printed = benchmark(*arguments, code=1, cwd=tmp_path)
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert (tmp_path / "own.py").read_text() == "a config that must stay"
