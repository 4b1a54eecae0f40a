"""The disk has an intact checkpoint at every moment, and no partial one."""

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from mmengine.fileio import LocalBackend
from run_hooks import At, Killed, Scores, kill
from small_runs import ONE_STEP

from vmt_mm.checkpoints.files import is_intact, read_checkpoint
from vmt_mm.errors import InputError
from vmt_mm.utils.files import remove_partial, write_bytes

#: One regular checkpoint, and no best one.
SHORT = {
    **ONE_STEP,
    "train_cfg.max_epochs": 3,
    "train_cfg.val_interval": 9,
    "default_hooks.checkpoint.max_keep_ckpts": 1,
    "default_hooks.checkpoint.save_best": None,
}
BEST = {
    **SHORT,
    "train_cfg.val_interval": 1,
    "default_hooks.checkpoint.save_best": "semseg/mIoU",
}


def best(epoch):
    return f"best_semseg_mIoU_epoch_{epoch}.pth"


def files(folder):
    return sorted(path.name for path in folder.glob("*.pth"))


@pytest.fixture
def replaced(monkeypatch):
    """Every file renamed to its final name: (path, the other checkpoints at that moment)."""
    replace, events = os.replace, []

    def spy(source, target):
        assert Path(source).name.endswith(".part")
        events.append((Path(target), files(Path(target).parent)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    return events


def checkpoints(events):
    return [(path.name, others) for path, others in events if path.suffix == ".pth"]


def test_the_previous_one_stays_until_the_new_one_is_written(small_run, replaced):
    run = small_run(SHORT).train()
    assert checkpoints(replaced) == [
        ("epoch_1.pth", []),
        ("epoch_2.pth", ["epoch_1.pth"]),
        ("epoch_3.pth", ["epoch_2.pth"]),
    ]
    assert files(run.folder) == ["epoch_3.pth"]
    assert (run.folder / "last_checkpoint").read_text() == str(run.folder / "epoch_3.pth")
    hub = read_checkpoint(str(run.folder / "epoch_3.pth"))["message_hub"]["runtime_info"]
    assert hub["keep_ckpt_ids"] == [3]


def test_the_previous_best_one_stays_until_the_new_one_is_written(small_run, replaced):
    run = small_run(BEST, Scores({1: 1.0, 2: 3.0, 3: 2.0})).train()
    assert checkpoints(replaced) == [
        ("epoch_1.pth", []),
        (best(1), ["epoch_1.pth"]),
        ("epoch_1.pth", [best(1), "epoch_1.pth"]),  # a new best score
        ("epoch_2.pth", [best(1), "epoch_1.pth"]),
        (best(2), [best(1), "epoch_2.pth"]),
        ("epoch_2.pth", [best(1), best(2), "epoch_2.pth"]),
        ("epoch_3.pth", [best(2), "epoch_2.pth"]),
    ]
    assert files(run.folder) == [best(2), "epoch_3.pth"]


def fail_to_write(monkeypatch, how):
    """Simulate a full disk when epoch_2.pth is written."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    fsync, put = os.fsync, LocalBackend.put

    def full_fsync(handle):
        if "epoch_2.pth" in os.readlink(f"/proc/self/fd/{handle}"):
            raise full
        fsync(handle)

    def full_put(self, content, path):
        if "epoch_2.pth" in str(path):
            put(self, content[: len(content) // 2], path)
            raise full
        put(self, content, path)

    if how == "flush":
        monkeypatch.setattr(os, "fsync", full_fsync)
    else:
        monkeypatch.setattr(LocalBackend, "put", full_put)


@pytest.mark.parametrize("how", ["write", "flush"])
def test_a_full_disk_leaves_the_previous_one(small_run, monkeypatch, how):
    with monkeypatch.context() as patches:
        fail_to_write(patches, how)
        run = small_run(SHORT)
        with pytest.raises(InputError) as caught:
            run.train()
    folder = run.folder
    assert f"{folder / 'epoch_2.pth'} cannot be written" in str(caught.value)
    assert "No space left on device" in str(caught.value)
    assert f"rerun with --resume, which continues from {folder / 'epoch_1.pth'}" in str(
        caught.value
    )
    assert files(folder) == ["epoch_1.pth"]
    assert is_intact(folder / "epoch_1.pth")
    assert not list(folder.rglob("*.part"))
    assert sorted(small_run({**SHORT, "resume": True}).train().losses) == [2, 3]
    assert files(folder) == ["epoch_3.pth"]


@pytest.mark.parametrize("name", ["epoch_1.pth", best(1)])
def test_partial_files_of_a_killed_run_are_removed_after_the_resume(small_run, monkeypatch, name):
    remove, scores = LocalBackend.remove, Scores({1: 1.0, 2: 2.0})

    def killed(self, path):
        if Path(path).name == name:
            raise Killed
        remove(self, path)

    with monkeypatch.context() as patches, pytest.raises(Killed):
        patches.setattr(LocalBackend, "remove", killed)
        small_run(BEST, scores).train()
    run = small_run({**BEST, "resume": True}, scores, At("before_train_iter", None, kill))
    (run.folder / ".epoch_2.pth.abcdefgh.part").write_bytes(b"torn")
    before = files(run.folder)
    assert name in before
    assert "epoch_2.pth" in before
    with pytest.raises(Killed):
        run.train()
    assert files(run.folder) == [best(2), "epoch_2.pth"]
    assert not list(run.folder.rglob("*.part"))


def test_a_run_killed_between_the_best_one_and_the_regular_one(small_run, monkeypatch):
    replace, scores = os.replace, Scores({1: 1.0, 2: 2.0})

    def killed(source, target):
        if Path(target).name == "epoch_2.pth" and (Path(target).parent / best(2)).exists():
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patches, pytest.raises(Killed):
        patches.setattr(os, "replace", killed)
        small_run(BEST, scores).train()
    run = small_run({**BEST, "resume": True}, scores, At("before_train_iter", None, kill))
    assert files(run.folder) == [best(1), best(2), "epoch_2.pth"]
    with pytest.raises(Killed):
        run.train()
    assert files(run.folder) == [best(2), "epoch_2.pth"]
    assert run.info["best_score"] == 2.0


def test_a_run_resumed_elsewhere_leaves_the_first_folder_alone(small_run, tmp_path):
    first = tmp_path / "first"
    options = {**BEST, "default_hooks.checkpoint.max_keep_ckpts": -1, "train_cfg.max_epochs": 2}
    small_run(options, Scores({1: 1.0, 2: 2.0}), folder=first).train()
    shutil.copy(first / "epoch_1.pth", first / "interrupted.pth")  # the first run continued, too
    before = files(first)
    assert best(2) in before
    options.update({"train_cfg.max_epochs": 3, "resume": True})
    options["load_from"] = str(first / "epoch_2.pth")
    run = small_run(options, Scores({2: 2.0, 3: 3.0}), folder=tmp_path / "second").train()
    assert files(run.folder) == [best(3), "epoch_3.pth"]
    assert files(first) == before


def test_checkpoints_and_records_are_written_atomically(small_run, replaced):
    scores = Scores({1: np.float32(1.5)})  # NumPy types, as in metrics of other libraries
    run = small_run({**BEST, "train_cfg.max_epochs": 1}, scores).train()
    names = {path.name for path, _ in replaced}
    expected = {"vmt_swin-nano_shapes.py", "last_validation.json", "epoch_1.pth", best(1)}
    assert names == expected
    found = json.loads((run.folder / "last_validation.json").read_text())
    assert found["iter"] == 1
    assert found["metrics"]["semseg/mIoU"] == 1.5
    hub = read_checkpoint(str(run.folder / "epoch_1.pth"))["message_hub"]["runtime_info"]
    assert hub["best_score"] == 1.5


def test_only_partial_files_are_removed(tmp_path):
    (tmp_path / "deep").mkdir()
    torn = [tmp_path / ".epoch_1.pth.a1b2c3d4.part", tmp_path / ".config.py.x_y_z_12.part"]
    others = [tmp_path / name for name in ("epoch_1.pth", ".hidden", "notes.part", ".part.txt")]
    for path in torn + others:
        path.write_bytes(b"x")
    assert sorted(remove_partial(tmp_path)) == sorted(torn)
    assert not any(path.exists() for path in torn)
    assert all(path.exists() for path in others)
    assert remove_partial(tmp_path) == []


def test_a_full_disk_under_write_bytes(tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    path, part = tmp_path / "file.bin", tmp_path / ".file.bin.x.part"
    path.write_bytes(b"old")

    def on_full_disk(**_):
        part.symlink_to("/dev/full")
        return os.open(os.devnull, os.O_RDWR), str(part)

    monkeypatch.setattr(tempfile, "mkstemp", on_full_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        write_bytes(path, b"new" * 9999)
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == ["file.bin"]
    assert path.read_bytes() == b"old"
