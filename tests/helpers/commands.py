"""Run the tools as a user does."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import PATIENCE

ROOT = Path(__file__).parents[2]
CONFIG = "configs/vmt/vmt_swin-nano_shapes.py"
#: A few small scenes, one epoch of a few steps.
SMALL = [
    "render.train=16",
    "render.val=5",
    "render.size=48",
    "image_size=48,48",
    "total_batch_size=8",
    "train_cfg.max_epochs=1",
    "train_cfg.val_interval=1",
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "test_dataloader.num_workers=0",
    "test_dataloader.persistent_workers=False",
]


def run(*command: str, code: int = 0, **kwargs) -> str:
    """Run a command in the repository; return what it printed."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=kwargs.pop("cwd", ROOT),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        **kwargs,
    )
    assert done.returncode == code, done.stdout[-4000:]
    return done.stdout


def options(tmp_path: Path, *more: str) -> list[str]:
    """``--cfg-options`` for a small run whose scenes lie below ``tmp_path``."""
    return ["--cfg-options", f"data_root={tmp_path}/shapes", *SMALL, *more]


def caller(tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    """A function that runs a tool within the test's process and returns what it printed."""

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [tool, *arguments])
        runpy.run_path(str(ROOT / tool), run_name="__main__")
        return capsys.readouterr().out

    return call
