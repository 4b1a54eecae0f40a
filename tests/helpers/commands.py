"""Run the tools as a user does, in this process or in a separate one."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from small_runs import own_state
from waiting import PATIENCE

ROOT = Path(__file__).parents[2]
CONFIG = "configs/vmt/vmt_swin-nano_shapes.py"
#: A few small scenes, and one epoch of a few steps.
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


def options(tmp_path: Path, *more: str) -> list[str]:
    """``--cfg-options`` for a small run whose scenes lie below ``tmp_path``."""
    return ["--cfg-options", f"data_root={tmp_path}/shapes", *SMALL, *more]


@dataclass(frozen=True)
class Output:
    """Result of a tool.

    Attributes:
        code: exit status.
        out: standard output.
        err: standard error.
    """

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Standard output and standard error."""
        return self.out + self.err


def run_tool(script: str, *arguments: object, code: int = 0, cwd: Path = ROOT) -> Output:
    """Run a script of the repository within this process, where the libraries are loaded already.

    Fails unless the script ends with the exit status ``code``. It finds the process as it starts:
    no logger, no message hub; its threads, seeds and environment variables end with it.
    """
    out, err = io.StringIO(), io.StringIO()
    previous = Path.cwd()
    status: object = 0
    with (
        own_state(),
        mock.patch.object(sys, "argv", [script, *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        os.environ["COLUMNS"] = "200"
        os.chdir(cwd)
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as ended:
            status = ended.code or 0
        finally:
            os.chdir(previous)
    output = Output(status if isinstance(status, int) else 1, out.getvalue(), err.getvalue())
    assert output.code == code, output.text[-4000:]
    return output


def run_process(*command: object, code: int = 0, **kwargs) -> str:
    """Run a command in the repository as a separate process; return its output.

    For tests of the process: its exit, its signals, its group. Others use ``run_tool``.
    """
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
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
