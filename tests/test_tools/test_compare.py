"""The comparison tool trains, collects, continues, and reports errors in one line."""

import json

import pytest
from commands import SMALL

CONFIG = "configs/baselines/decoders_swin-nano_shapes.py"
TOOL = "tools/analysis_tools/compare.py"
TINY = [
    "render.train=8",
    "render.val=4",
    "render.size=32",
    "image_size=32,32",
    "total_batch_size=4",
    *(option for option in SMALL if option.startswith(("train_dataloader", "val_dataloader"))),
    "train_cfg.max_epochs=1",
    "default_hooks.visualization.num_images=0",
]

pytestmark = [pytest.mark.slow, pytest.mark.processes]  # the tool starts a process per training


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def compare(run_tool, folder):
    def call(*arguments, options=(), code=0):
        return run_tool(
            *(TOOL, CONFIG, "--work-dir", folder / "runs", "--seeds", "0", "1"),
            *("--jobs", "2", "--title", "decoders_swin-nano_shapes=Decoders only"),
            *("--out", folder / "out", "--reference", CONFIG, *arguments),
            *("--cfg-options", f"data_root={folder}/shapes", *TINY, *options),
            code=code,
        ).text

    return call


@pytest.fixture(scope="module")
def trained(compare):
    return compare()


def test_two_seeds_are_trained_and_compared(folder, trained):
    assert "2 of 2: decoders_swin-nano_shapes/seed" in trained
    result = json.loads((folder / "out/comparison.json").read_text())
    (row,) = result["rows"]
    assert (row["title"], row["encoder"], row["passes"]) == ("Decoders only", 0, 1)
    for number in (0, 1):
        last = folder / f"runs/decoders_swin-nano_shapes/seed{number}/last_validation.json"
        metrics = json.loads(last.read_text())["metrics"]
        assert row["scores"]["normals"]["values"][str(number)] == metrics["normals/mErr"]
    assert row["delta"]["mean"] == pytest.approx(0, abs=1e-9)
    assert (folder / "out/comparison.md").read_text().startswith("| method |")
    assert (folder / "out/comparison.png").stat().st_size > 10_000


def test_the_same_command_again_only_collects(folder, trained, compare):
    before = json.loads((folder / "out/comparison.json").read_text())
    assert "2 of 2 run(s) already finished" in compare()
    assert json.loads((folder / "out/comparison.json").read_text()) == before


def test_other_settings_and_missing_runs(trained, compare):
    output = compare(options=["optim_wrapper.optimizer.lr=0.5"], code=1)
    assert "belongs to a run with different settings: optim_wrapper" in output
    assert "Traceback" not in output
    output = compare("--collect", "--seeds", "0", "1", "7")
    assert "decoders_swin-nano_shapes/seed7 has not started" in output
    output = compare("--title", "decoders_swin-nano_shapes.py=x", code=1)
    assert "--title: expected a file name without suffix, one of decoders_swin-nano_s" in output


def test_a_failed_training_is_reported_and_the_others_are_kept(trained, compare):
    output = compare("--seeds", "0", "-1", code=1)
    assert "decoders_swin-nano_shapes/seed-1 failed; last lines of" in output
    assert "1 of 2 run(s) already finished" in output
    assert "Decoders only †" in output
