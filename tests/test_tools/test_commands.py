"""The commands of the README, on a few small scenes."""

import contextlib
import gc
import json
import os
import re
import runpy
import shutil
import socket
import sys
from pathlib import Path

import cv2
import pytest
from commands import CONFIG, ROOT, SMALL, options, run_process
from processes import run_forked
from recompute import recompute
from waiting import free_port

from vmt_mm.tasks import build_tasks

TRAIN, TEST = "tools/train.py", "tools/test.py"
NO_PICTURES = "default_hooks.visualization.num_images=0"


@pytest.fixture(scope="module")
def trained(run_tool, tmp_path_factory):
    """A folder with one epoch of training and its scenes."""
    folder = tmp_path_factory.mktemp("trained")
    output = run_tool(TRAIN, CONFIG, "--work-dir", folder / "run", *options(folder, NO_PICTURES))
    return folder, output.text


def losses(output):
    """(epoch, loss) of every log line with a loss."""
    lines = re.findall(r"Epoch\(train\)\s+\[(\d+)\].* loss: ([\d.]+)", output)
    return [(int(epoch), float(loss)) for epoch, loss in lines]


@pytest.mark.slow
@pytest.mark.processes
def test_the_demo_can_be_run_twice(run_tool, tmp_path):
    demo, small = tmp_path / "demo", options(tmp_path)
    first = run_process(
        *("make", "demo-run", f"BIN={Path(sys.executable).parent}", f"DEMO_DIR={demo}"),
        *(f"DEMO_CONFIG={CONFIG}", f"DEMO_OPTIONS={' '.join(small)}"),
    )
    assert "UserWarning" not in first
    panel = Path(re.search(r"a panel to look at: (\S+\.png)", first)[1])
    panel_size = panel.stat().st_size
    panel.unlink()
    # the commands of the Makefile, in this process
    run_tool(TRAIN, CONFIG, "--work-dir", demo, *small)
    checkpoint = (demo / "last_checkpoint").read_text()
    folders = ("--work-dir", demo / "test", "--show-dir", demo / "panels")
    second = run_tool(TEST, CONFIG, checkpoint, *folders, *small).text
    for output, size in ((first, panel_size), (second, panel.stat().st_size)):
        assert "semseg" in output
        assert "mIoU (higher is better)" in output
        assert "Delta" not in output  # these scenes have no reference
        assert size > 10_000
    assert list(demo.rglob("vis_image/*.png"))  # drawn during validation


@pytest.mark.processes
@pytest.mark.parametrize("index", ["has it", "has it not"])
def test_the_demo_takes_the_pretrained_vit_of_the_package_index_if_it_is_there(tmp_path, index):
    python = tmp_path / "bin/python"  # prints its arguments instead of running a tool
    python.parent.mkdir()
    download = 'touch "$3"' if index == "has it" else "exit 1"
    python.write_text(f'#!/bin/sh\necho "ran $*"\ncase $1 in *import_vit.py) {download};; esac\n')
    python.chmod(0o755)
    (tmp_path / ".installed").touch()
    (tmp_path / "last_checkpoint").write_text("epoch_1.pth")
    (tmp_path / "panels").mkdir()
    command = ("make", "demo", f"VENV={tmp_path}", f"DEMO_DIR={tmp_path}")
    output = run_process(*command, f"WEIGHTS={tmp_path}/vit.safetensors")
    ran = re.findall(r"ran tools/(?:\w+/)?(\w+)\.py \S*?([\w-]+)(?:\.py)?[ =]", output)
    model = "vmt_vit-s14_shapes" if index == "has it" else "vmt_swin-nano_shapes"
    assert [name for name, _ in ran] == ["import_vit", "train", "test"]
    assert [config for _, config in ran[1:]] == [model, model]
    timed = re.findall(r"^(.+): \d+ seconds$", output, re.MULTILINE)
    fetched = ["pretrained weights"] if index == "has it" else []
    assert timed == ["setup", *fetched, "training", "test"]
    assert output.count("the demo continues with Swin-nano") == (index == "has it not")


def test_training_logs_the_trainable_parameters(trained):
    _, output = trained
    assert re.search(r"encoder\s+│\s+[\d,]+ │\s+[\d,]+ │\s+[\d.]+ %", output)


def test_test_writes_metrics_and_every_prediction(run_tool, trained, tmp_path):
    folder, _ = trained
    output = run_tool(
        *(TEST, CONFIG, folder / "run/epoch_1.pth", "--work-dir", tmp_path),
        *("--out", tmp_path / "out", "--show-dir", tmp_path / "panels", "--maps-only"),
        *options(folder),
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    names = {"semseg/mIoU", "human_parts/mIoU", "saliency/mIoU", "saliency/maxF", "normals/mErr"}
    assert names <= set(metrics)
    assert f"{metrics['normals/mErr']:.2f}" in output.out
    ids = (folder / "shapes/splits/val.txt").read_text().split()
    assert sorted(p.stem for p in (tmp_path / "panels").iterdir()) == ids
    # two rows of four columns, without the image
    height, width = cv2.imread(str(tmp_path / f"panels/{ids[0]}.png")).shape[:2]
    assert 1.3 < width / height < 1.8
    wrong = run_tool(TEST, CONFIG, folder / "run/epoch_1.pth", "--maps-only", code=1)
    assert "--maps-only needs --show-dir" in wrong.text
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


def test_a_resumed_run_continues_where_it_stopped(run_tool, trained, tmp_path):
    folder, _ = trained
    two = options(folder, NO_PICTURES, "default_hooks.logger.interval=1", "train_cfg.max_epochs=2")

    def train(name, *more):
        command = (TRAIN, CONFIG, "--seed", "3", "--deterministic", "--work-dir", tmp_path / name)
        return losses(run_tool(*command, *more).text)

    full_run = train("full", *two)
    # stopped after the first of two epochs, with the schedule of two
    stopped = train("part", *two, "train_cfg.max_epochs=1", "param_scheduler.0.end=2")
    # the pretrained file is only needed to start
    resumed = train("part", "--resume", *two, "pretrained=gone.pth")
    assert [epoch for epoch, _ in stopped] == [1, 1]
    assert [epoch for epoch, _ in resumed] == [2, 2]
    assert resumed == [pair for pair in full_run if pair[0] == 2]


@pytest.fixture(scope="module")
def partial(trained, tmp_path_factory):
    """The scenes as a user's data: labels of every task are missing, and one image has none."""
    root = tmp_path_factory.mktemp("partial")
    shutil.copytree(trained[0] / "shapes", root, dirs_exist_ok=True)
    last = (root / "splits/val.txt").read_text().split()[-1]
    for number, task in enumerate(["semseg", "human_parts", "saliency", "normals"]):
        for file in sorted((root / task).iterdir())[number::3]:
            file.unlink()
        (root / task / f"{last}.png").unlink(missing_ok=True)
    return root


@pytest.fixture(scope="module")
def own(partial, tmp_path_factory):
    """A config of the partial data."""
    # One image per batch, so that results do not depend on the process.
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(
        f"_base_ = {str(ROOT / CONFIG)!r}\n"
        "test_dataloader = dict(batch_size=1, dataset=dict(\n"
        f"    _delete_=True, type='MultiTaskDataset', data_root={str(partial)!r},\n"
        "    ann_file='splits/val.txt', tasks=_base_.tasks, test_mode=True,\n"
        "    pipeline=_base_.test_pipeline))\n"
    )
    return path


@pytest.fixture(scope="module")
def groups(trained, own, tmp_path_factory):
    """A folder with exit status, output and results of tools that ran in process groups."""
    folder, checkpoint = tmp_path_factory.mktemp("groups"), trained[0] / "run/epoch_1.pth"
    train, test = [TRAIN, ROOT / CONFIG], [TEST, ROOT / CONFIG, checkpoint]
    small = options(trained[0], NO_PICTURES)
    jobs = {
        "train done": (1, train, small),
        "train failed": (1, train, [*small, "total_batch_size=17"]),
        "test done": (1, test, small),
        "test failed": (1, test, [*small, "model.backbone.peft.ratio=2"]),
        "four": (4, [TEST, own, checkpoint], small),
    }
    commands = {
        name: (world, [*map(str, tool), "--launcher", "pytorch", "--work-dir", name, *more])
        for name, (world, tool, more) in jobs.items()
    }
    (folder / "commands.json").write_text(json.dumps(commands))
    run_forked(__file__, folder)
    return folder


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed by Linux")
@pytest.mark.parametrize("end", ["done", "failed"])
@pytest.mark.parametrize("tool", ["train", "test"])
def test_no_thread_of_a_process_group_is_left(groups, tool, end):
    # a thread that frees a tensor while the interpreter exits would abort the process
    output = (groups / f"{tool} {end} 0.txt").read_text()
    assert ("error: " in output) == (end == "failed")
    assert "threads at the end: 0" in output
    assert json.loads((groups / "codes.json").read_text())[f"{tool} {end}"] == [
        int(end == "failed")
    ]


@pytest.mark.slow
@pytest.mark.processes
def test_more_processes_give_the_metrics_of_one(run_tool, trained, partial, own, groups, tmp_path):
    small = options(trained[0])
    arguments = own, trained[0] / "run/epoch_1.pth"
    run_tool(TEST, *arguments, "--work-dir", tmp_path / "1", *small)
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.delenv("PORT", raising=False)
        with contextlib.suppress(OSError):  # torchrun's default port is in use already
            stack.enter_context(socket.create_server(("127.0.0.1", 29500)))
        run_process(
            *("bash", "tools/dist_test.sh", *arguments, "2", "--work-dir", tmp_path / "2"),
            *("--out", tmp_path / "out", *small),
        )
    one, two, four = [
        json.loads((folder / "metrics.json").read_text())
        for folder in (tmp_path / "1", tmp_path / "2", groups / "four")
    ]
    assert one["semseg/images"] < 5
    assert one["human_parts/images"] < one["semseg/images"]  # some images show no person
    assert {"semseg/mIoU", "human_parts/mIoU", "saliency/maxF", "normals/mErr"} <= set(one)
    for more in (two, four):
        assert more == pytest.approx(one, abs=1e-9, rel=0)
    # both processes wrote their predictions
    again = recompute(partial, tmp_path / "out", ["semseg", "normals"])
    for key in ("semseg/mIoU", "semseg/images", "normals/mErr", "normals/images"):
        assert again[key] == pytest.approx(one[key], abs=0.1)


def test_a_checkpoint_of_another_model_is_refused(run_tool, trained, tmp_path):
    folder, _ = trained
    output = run_tool(
        TEST, "configs/baselines/decoders_swin-nano_shapes.py", folder / "run/epoch_1.pth",
        "--work-dir", tmp_path, *options(folder), code=1,
    ).text  # fmt: skip
    assert "epoch_1.pth does not fit the config: peft: 'VMTAdapter' in the checkpoint" in output
    assert "'DecodersOnly' in the config" in output
    assert "Traceback" not in output


def test_fewer_images_than_a_batch_are_one_line(run_tool, trained, tmp_path):
    small = options(trained[0], "total_batch_size=17")
    output = run_tool(TRAIN, CONFIG, "--work-dir", tmp_path, *small, code=1).text
    assert "error: 16 training image(s) do not fill a batch of 17" in output
    assert "Traceback" not in output


def test_partial_labels_of_photographs_train_and_test(run_tool, partial, tmp_path):
    run_tool(
        TRAIN, "configs/vmt/vmt_swin-t_pascal.py",
        "--work-dir", tmp_path / "run", "--cfg-options", f"data_root={partial}", "pretrained=None",
        "allow_random_backbone=True", "model.backbone.arch=nano", "total_batch_size=4",
        NO_PICTURES, *SMALL[3:4], *SMALL[5:],
    )  # fmt: skip
    (log,) = (tmp_path / "run").rglob("scalars.json")
    last = json.loads(log.read_text().splitlines()[-1])
    assert {"semseg/mIoU", "saliency/maxF", "normals/mErr", "delta"} <= set(last)


def test_missing_data_and_weights_are_one_line_each(run_tool, tmp_path):
    config = ROOT / "configs/vmt/vmt_swin-t_pascal.py"
    output = run_tool(TRAIN, config, code=1, cwd=tmp_path).text
    assert "Traceback" not in output
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "data/pascal_mt" in errors[0]
    assert "splits" in errors[0]
    assert "pretrain/swin_tiny_patch4_window7_224.pth" in errors[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([TRAIN, "configs/none.py"], "configs/none.py: no such config file"),
        ([TEST, CONFIG, "none.pth"], "none.pth: no such checkpoint"),
        ([TRAIN, CONFIG, "--resume", "none.pth"], "none.pth: no such checkpoint"),
    ],
)
def test_wrong_arguments_are_one_line(run_tool, arguments, message):
    output = run_tool(*arguments, code=1).text
    assert message in output
    assert "Traceback" not in output


def test_browse_and_print(run_tool, trained, tmp_path):
    folder, _ = trained
    pictures = []
    for out, more in ((tmp_path / "a", []), (tmp_path / "b", ["augment_on_device=True"])):
        run_tool("tools/misc/browse_dataset.py", CONFIG, "--output-dir", out,
                 "--show-number", "2", *options(folder, *more))  # fmt: skip
        pictures.append({path.name: path.read_bytes() for path in out.glob("*.png")})
        assert len(pictures[0]) == 2
    assert pictures[0] == pictures[1]
    output = run_tool("tools/misc/print_config.py", CONFIG, *options(folder)).out
    assert output.count(f"'data_root': '{folder}/shapes'") == 3
    assert f"data_root = '{folder}/shapes'" in output


def _run_in_groups(folder):
    """Run the fixture's commands in forked processes, which share the imported libraries."""
    gc.collect()
    gc.freeze()  # otherwise, garbage collection in every process visits all libraries
    codes = {}
    for name, (world, command) in json.loads((folder / "commands.json").read_text()).items():
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port(), WORLD_SIZE=str(world))
        children = []
        for rank in range(world):
            child = os.fork()
            if child == 0:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), CUDA_VISIBLE_DEVICES="")
                _run_as_rank(folder, f"{name} {rank}.txt", command)
            children.append(child)
        codes[name] = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    (folder / "codes.json").write_text(json.dumps(codes))


def _run_as_rank(folder, output, command):
    """Run a tool, print the number of gloo threads left, and exit as an interpreter does."""
    os.chdir(folder)
    stream = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.argv = command
    try:
        runpy.run_path(str(ROOT / command[0]), run_name="__main__")
    finally:
        names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
        print("threads at the end:", names.count("pt_gloo_runloop"), flush=True)
    sys.exit()


if __name__ == "__main__":
    _run_in_groups(Path(sys.argv[1]))
