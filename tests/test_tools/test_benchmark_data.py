"""The command that times the data pipeline."""

import json
import runpy
import sys

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
def benchmark(monkeypatch, capsys, scenes):
    """Run the tool; return what it printed."""

    def call(*arguments, config=str(ROOT / CONFIG)):
        options = ["--cfg-options", f"data_root={scenes}", *OPTIONS]
        monkeypatch.setattr(sys, "argv", ["benchmark_data.py", config, *arguments, *options])
        runpy.run_path(str(ROOT / "tools/analysis_tools/benchmark_data.py"), run_name="__main__")
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("workers", ["0", "1"])
def test_json(benchmark, scenes, workers):
    files = sorted(scenes.rglob("*"))
    arguments = ["--images", "3", "--repeats", "2", "--workers", workers, "--json"]
    record = json.loads(benchmark(*arguments))
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
    assert sorted(scenes.rglob("*")) == files  # the cache has gone


def test_tables_and_fewer_images_than_asked_for(benchmark):
    output = benchmark("--repeats", "1")
    assert "times plain" in output
    assert "where it goes" in output
    assert "RandomWarp" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "0"], "--images must be 1 or more, got 0"),
        (["--repeats", "0"], "--repeats must be 1 or more, got 0"),
        (["--workers", "-1"], "--workers must be 0 or more, got -1"),
    ],
)
def test_wrong_arguments_are_one_line(benchmark, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_:
        benchmark(*arguments)
    assert exit_.value.code == 1
    assert capsys.readouterr().err.splitlines() == [f"error: {message}"]


def test_a_pipeline_without_a_warp_is_refused(benchmark, capsys, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        f"_base_ = {str(ROOT / CONFIG)!r}\n"
        "train_dataloader = dict(dataset=dict(pipeline=[\n"
        "    dict(type='LoadImageFromFile'), dict(type='LoadLabels'),\n"
        "    dict(type='Resize', scale=(40, 32)), dict(type='PackMultiTaskInputs')]))\n"
    )
    with pytest.raises(SystemExit):
        benchmark(config=str(config))
    assert "the training pipeline has no RandomWarp" in capsys.readouterr().err


def test_warps_that_are_left_to_the_device_are_not_compared(benchmark, capsys, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(f"_base_ = {str(ROOT / CONFIG)!r}\naugment_on_device = True\n")
    with pytest.raises(SystemExit):
        benchmark(config=str(config))
    assert "set augment_on_device=False" in capsys.readouterr().err
