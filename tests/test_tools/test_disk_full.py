"""A disk that fills up during a training: one message, and the last checkpoint is intact."""

import shutil
import subprocess
import sys

import pytest
from commands import CONFIG, options, run_process

from vmt_mm.checkpoints.files import is_intact, newest_checkpoint

# A small disk in a separate namespace needs no privileges; its content is copied out at the end.
_IN_NAME_SPACE = """
mount -t tmpfs -o size={size} tmpfs {disk} || exit 99
"$@"; code=$?
cp -r {disk} {copy}
exit $code
"""


def on_small_disk(tmp_path, size, *command, code):
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    script = _IN_NAME_SPACE.format(size=size, disk=disk, copy=copy)
    return copy, run_process("unshare", "-rm", "sh", "-c", script, "sh", *command, code=code)


pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def _needs_name_spaces(tmp_path):
    if not shutil.which("unshare"):
        pytest.skip("needs the program unshare")
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this system lets no one mount a small disk")


def test_training_says_so_and_keeps_the_last_checkpoint(tmp_path):
    # Room for the logs and one checkpoint of 7.5 MB, not for two.
    copy, output = on_small_disk(
        tmp_path, "13m",
        sys.executable, "tools/train.py", CONFIG, "--work-dir", tmp_path / "disk/run",
        *options(
            tmp_path, "train_cfg.max_epochs=2", "default_hooks.checkpoint.save_best=None",
            "default_hooks.visualization.num_images=0", "default_hooks.checkpoint.save_frozen=True",
        ),
        code=1,
    )  # fmt: skip
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "epoch_2.pth cannot be written: No space left on device" in errors[0]
    assert "fix this and rerun with --resume, which continues from" in errors[0]
    assert errors[0].endswith("disk/run/epoch_1.pth")
    assert "Traceback" not in output
    files = sorted(path.name for path in (copy / "run").glob("*.pth"))
    assert files == ["epoch_1.pth"]
    assert is_intact(copy / "run/epoch_1.pth")
    assert not list(copy.rglob(".*.part"))
    assert (copy / "run/last_checkpoint").read_text().endswith("epoch_1.pth")
    assert newest_checkpoint(copy / "run") == str(copy / "run/epoch_1.pth")


def test_rendering_says_so_too(tmp_path):
    copy, output = on_small_disk(
        tmp_path, "64k",
        sys.executable, "tools/train.py", CONFIG, "--work-dir", tmp_path / "run",
        *options(tmp_path / "disk"), code=1,
    )  # fmt: skip
    assert "error: the disk is full" in output
    assert "Traceback" not in output
    assert not (copy / "shapes").exists()  # the folder is created atomically
