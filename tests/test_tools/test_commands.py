"""The commands of the README, on a few small scenes."""

import contextlib
import json
import re
import shutil
import socket
import sys
from pathlib import Path

import pytest
from commands import CONFIG, ROOT, SMALL, options, run_process
from waiting import free_port

from vmt_mm.tasks import build_tasks


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one epoch of training and its scenes."""
    folder = tmp_path_factory.mktemp("trained")
    output = run_process(
        sys.executable, "tools/train.py", CONFIG, "--work-dir", folder / "run", *options(folder)
    )
    return folder, output


def losses(output):
    """(epoch, loss) of every line of the log that has one."""
    lines = re.findall(r"Epoch\(train\)\s+\[(\d+)\].* loss: ([\d.]+)", output)
    return [(int(epoch), float(loss)) for epoch, loss in lines]


def test_the_demo_can_be_run_twice(tmp_path):
    command = [
        "make",
        "demo-run",
        f"BIN={Path(sys.executable).parent}",
        f"DEMO_DIR={tmp_path}/demo",
        f"DEMO_OPTIONS={' '.join(options(tmp_path))}",
    ]
    for _ in range(2):
        output = run_process(*command)
        assert "semseg" in output
        assert "mIoU (higher is better)" in output
        assert "Delta" not in output  # there is no reference for these scenes
        panel = re.search(r"a panel to look at: (\S+\.png)", output)[1]
        assert Path(panel).stat().st_size > 10_000
    assert list((tmp_path / "demo").rglob("vis_image/*.png"))  # drawn during validation


def test_training_says_what_trains(trained):
    _, output = trained
    assert re.search(r"encoder\s+│\s+[\d,]+ │\s+[\d,]+ │\s+[\d.]+ %", output)
    assert "UserWarning" not in output


def test_test_writes_metrics_and_every_prediction(trained, tmp_path):
    folder, _ = trained
    output = run_process(
        sys.executable,
        "tools/test.py",
        CONFIG,
        folder / "run/epoch_1.pth",
        *("--work-dir", tmp_path, "--out", tmp_path / "out", "--show-dir", tmp_path / "panels"),
        *options(folder),
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    names = {"semseg/mIoU", "human_parts/mIoU", "saliency/mIoU", "saliency/maxF", "normals/mErr"}
    assert names <= set(metrics)
    assert f"{metrics['normals/mErr']:.2f}" in output
    ids = (folder / "shapes/splits/val.txt").read_text().split()
    assert sorted(p.stem for p in (tmp_path / "panels").iterdir()) == ids
    tasks = build_tasks(
        dict(
            semseg=dict(type="Segmentation", num_classes=8),
            human_parts=dict(type="Segmentation", num_classes=7),
            saliency=dict(type="Saliency"),
            normals=dict(type="Normals"),
        )
    )
    for name, task in tasks.items():
        assert sorted(p.stem for p in (tmp_path / "out" / name).iterdir()) == ids
        assert task.label.decode(tmp_path / "out" / name / f"{ids[0]}.png").shape[:2] == (48, 48)


def test_a_resumed_run_goes_on_where_it_stopped(trained, tmp_path):
    folder, _ = trained
    common = [sys.executable, "tools/train.py", CONFIG, "--seed", "3", "--deterministic"]
    two = options(folder, "default_hooks.logger.interval=1", "train_cfg.max_epochs=2")
    whole = losses(run_process(*common, "--work-dir", tmp_path / "whole", *two))
    # stopped after the first of two epochs, the schedule being that of two
    stopped = run_process(*common, "--work-dir", tmp_path / "part", *two, "train_cfg.max_epochs=1",
                  "param_scheduler.0.end=2")  # fmt: skip
    # the pretrained file is needed only to start
    resumed = losses(run_process(*common, "--work-dir", tmp_path / "part", "--resume", *two,
                         "pretrained=gone.pth"))  # fmt: skip
    assert [epoch for epoch, _ in losses(stopped)] == [1, 1]
    assert [epoch for epoch, _ in resumed] == [2, 2]
    assert resumed == [pair for pair in whole if pair[0] == 2]


def test_two_processes_train_while_the_default_port_is_taken(trained, tmp_path, monkeypatch):
    monkeypatch.delenv("PORT", raising=False)
    folder, _ = trained
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # else torchrun's default port is taken already
            stack.enter_context(socket.create_server(("127.0.0.1", 29500)))
        output = run_process(
            *("bash", "tools/dist_train.sh", CONFIG, "2", "--work-dir", tmp_path),
            *options(folder),
        )
    assert "Epoch(val)" in output


_TOOL_AND_THREADS = """
import pathlib, runpy, sys
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    names = [path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
    print("threads at the end:", names.count("pt_gloo_runloop"), flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed by Linux")
@pytest.mark.parametrize("fails", [False, True], ids=["done", "failed"])
@pytest.mark.parametrize("tool", ["train", "test"])
def test_no_thread_of_a_process_group_is_left(trained, tmp_path, monkeypatch, tool, fails):
    # one that lets go of a tensor while the interpreter exits would abort the process
    group = dict(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
    for key, value in {**group, "MASTER_PORT": free_port(), "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(key, value)
    folder, _ = trained
    checkpoint = [folder / "run/epoch_1.pth"] if tool == "test" else []
    broken = dict(train="total_batch_size=17", test="model.backbone.peft.ratio=2")[tool]
    output = run_process(
        sys.executable, "-c", _TOOL_AND_THREADS, f"tools/{tool}.py", CONFIG, *checkpoint,
        *("--launcher", "pytorch", "--work-dir", tmp_path), *options(folder, *[broken] * fails),
        code=int(fails),
    )  # fmt: skip
    assert ("error: " in output) == fails
    assert "threads at the end: 0" in output


@pytest.fixture(scope="module")
def partial(trained, tmp_path_factory):
    """The scenes as data of a user's own: every task lacks labels, one image has none at all."""
    root = tmp_path_factory.mktemp("partial")
    shutil.copytree(trained[0] / "shapes", root, dirs_exist_ok=True)
    last = (root / "splits/val.txt").read_text().split()[-1]
    for number, task in enumerate(["semseg", "human_parts", "saliency", "normals"]):
        for file in sorted((root / task).iterdir())[number::3]:
            file.unlink()
        (root / task / f"{last}.png").unlink(missing_ok=True)
    return root


def test_more_processes_give_the_metrics_of_one(trained, partial, tmp_path):
    # One image at a time, so that each is computed alike in whatever process it is.
    own = tmp_path / "own.py"
    own.write_text(
        f"_base_ = {str(ROOT / CONFIG)!r}\n"
        "test_dataloader = dict(batch_size=1, dataset=dict(\n"
        f"    _delete_=True, type='MultiTaskDataset', data_root={str(partial)!r},\n"
        "    ann_file='splits/val.txt', tasks=_base_.tasks, test_mode=True,\n"
        "    pipeline=_base_.test_pipeline))\n"
    )
    results = {}
    for number in "124":
        run_process("bash", "tools/dist_test.sh", own, trained[0] / "run/epoch_1.pth", number,
            "--work-dir", tmp_path / number, *options(trained[0]))  # fmt: skip
        results[number] = json.loads((tmp_path / number / "metrics.json").read_text())
    one = results["1"]
    assert one["semseg/images"] < 5
    assert one["human_parts/images"] < one["semseg/images"]  # some images show no one
    assert {"semseg/mIoU", "human_parts/mIoU", "saliency/maxF", "normals/mErr"} <= set(one)
    for number in "24":
        assert results[number] == pytest.approx(one, abs=1e-9, rel=0)


def test_a_checkpoint_of_another_model_is_refused(trained, tmp_path):
    folder, _ = trained
    output = run_process(
        sys.executable, "tools/test.py", "configs/baselines/decoders_swin-nano_shapes.py",
        folder / "run/epoch_1.pth", "--work-dir", tmp_path, *options(folder), code=1,
    )  # fmt: skip
    assert "epoch_1.pth does not fit the config: peft: 'VMTAdapter' in the checkpoint" in output
    assert "'DecodersOnly' in the config" in output
    assert "Traceback" not in output


def test_fewer_images_than_a_batch_are_one_line(trained, tmp_path):
    folder, _ = trained
    output = run_process(
        sys.executable, "tools/train.py", CONFIG, "--work-dir", tmp_path,
        *options(folder, "total_batch_size=17"), code=1,
    )  # fmt: skip
    assert "error: 16 training image(s) give no batch of 17 per process" in output
    assert "Traceback" not in output


def test_partial_labels_of_photographs_train_and_test(partial, tmp_path):
    run_process(
        sys.executable, "tools/train.py", "configs/vmt/vmt_swin-t_pascal.py",
        "--work-dir", tmp_path / "run", "--cfg-options", f"data_root={partial}", "pretrained=None",
        "allow_random_backbone=True", "model.backbone.arch=nano", "total_batch_size=4",
        *SMALL[3:4], *SMALL[5:],
    )  # fmt: skip
    (log,) = (tmp_path / "run").rglob("scalars.json")
    last = json.loads(log.read_text().splitlines()[-1])
    assert {"semseg/mIoU", "saliency/maxF", "normals/mErr", "delta"} <= set(last)


def test_missing_data_and_weights_are_one_line_each(tmp_path):
    output = run_process(
        sys.executable, ROOT / "tools/train.py", ROOT / "configs/vmt/vmt_swin-t_pascal.py",
        code=1, cwd=tmp_path,
    )  # fmt: skip
    assert "Traceback" not in output
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "data/pascal_mt" in errors[0]
    assert "splits" in errors[0]
    assert "pretrain/swin_tiny_patch4_window7_224.pth" in errors[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tools/train.py", "configs/none.py"], "configs/none.py: no such config file"),
        (["tools/test.py", CONFIG, "none.pth"], "none.pth: no such checkpoint"),
        (["tools/train.py", CONFIG, "--resume", "none.pth"], "none.pth: no such checkpoint"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message):
    output = run_process(sys.executable, *arguments, code=1)
    assert message in output
    assert "Traceback" not in output


def test_browse_and_print(trained, tmp_path):
    folder, _ = trained
    run_process(sys.executable, "tools/misc/browse_dataset.py", CONFIG, "--output-dir", tmp_path,
        "--show-number", "2", *options(folder))  # fmt: skip
    pictures = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
    assert len(pictures) == 2
    run_process(sys.executable, "tools/misc/browse_dataset.py", CONFIG, "--output-dir", tmp_path,
        "--show-number", "2", *options(folder), "augment_on_device=True")  # fmt: skip
    assert pictures == {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
    output = run_process(sys.executable, "tools/misc/print_config.py", CONFIG, *options(folder))
    assert output.count(f"'data_root': '{folder}/shapes'") == 3
    assert f"data_root = '{folder}/shapes'" in output
