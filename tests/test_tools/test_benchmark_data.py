"""The command that times the data pipeline."""

import json

import pytest
from commands import CONFIG, ROOT

from vmt_mm.rendering import write_dataset

RENDER = dict(train=4, val=2, size=48, seed=0)
OPTIONS = [f"render.{key}={value}" for key, value in RENDER.items()] + ["image_size=40,32"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A few rendered scenes."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    write_dataset(root, workers=1, **RENDER)
    return root


@pytest.fixture
def benchmark(run_tool, scenes):
    """Run the tool on the rendered scenes."""

    def call(*arguments, config=CONFIG, code=0):
        options = ["--cfg-options", f"data_root={scenes}", *OPTIONS]
        script = "tools/analysis_tools/benchmark_data.py"
        return run_tool(script, config, *arguments, *options, code=code)

    return call


@pytest.mark.parametrize("workers", ["0", "1"])
def test_json(benchmark, scenes, workers):
    files = sorted(scenes.rglob("*"))
    arguments = ["--images", "3", "--repeats", "2", "--workers", workers, "--json"]
    record = json.loads(benchmark(*arguments).out)
    settings = dict(images=3, repeats=2, workers=int(workers), size=[40, 32])
    assert settings.items() <= record.items()
    assert set(record["pipelines"]) == {"files", "cache", "plain"}
    for speed in record["pipelines"].values():
        assert speed["ms"] > 0
        assert speed["images_per_s"] == pytest.approx(1000 / speed["ms"])
    plain = record["pipelines"]["plain"]["ms"]
    for name, times in record["times_plain"].items():
        assert times == pytest.approx(plain / record["pipelines"][name]["ms"])
    assert set(record["times_plain"]) == set(record["stages"]) == {"files", "cache"}
    for stages in record["stages"].values():
        assert {"LoadImageFromFile", "LoadLabels", "RandomWarp"} < set(stages)
    assert sorted(scenes.rglob("*")) == files  # the cache is removed


def test_tables_and_fewer_images_than_requested(benchmark):
    output = benchmark("--repeats", "1").out
    assert "relative to plain" in output
    assert "time per step" in output
    assert "RandomWarp" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "0"], "--images must be 1 or more, got 0"),
        (["--repeats", "0"], "--repeats must be 1 or more, got 0"),
        (["--workers", "-1"], "--workers must be 0 or more, got -1"),
    ],
)
def test_wrong_arguments_are_one_line(benchmark, arguments, message):
    assert benchmark(*arguments, code=1).err.splitlines() == [f"error: {message}"]


def test_a_pipeline_without_a_warp_is_refused(benchmark, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        f"_base_ = {str(ROOT / CONFIG)!r}\n"
        "train_dataloader = dict(dataset=dict(pipeline=[\n"
        "    dict(type='LoadImageFromFile'), dict(type='LoadLabels'),\n"
        "    dict(type='Resize', scale=(40, 32)), dict(type='PackMultiTaskInputs')]))\n"
    )
    printed = benchmark(config=config, code=1)
    assert "the training pipeline has no RandomWarp" in printed.err


def test_warps_that_are_left_to_the_device_are_not_compared(benchmark, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(f"_base_ = {str(ROOT / CONFIG)!r}\naugment_on_device = True\n")
    assert "set augment_on_device=False" in benchmark(config=config, code=1).err
