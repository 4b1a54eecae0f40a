"""Run a function in several processes that one interpreter forks."""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from waiting import PATIENCE

from vmt_mm.cli.launch import leave_group


def run_forked(script: str, folder: Path) -> None:
    """Run a test file as a script, ``script folder``, which calls :func:`fork_group`.

    It has its own process group and a deadline: a process that waits forever for another one must
    not block the test run.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        ),
    }
    process = subprocess.Popen(
        [sys.executable, script, str(folder)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        raise
    assert process.returncode == 0, errors


def fork(world: int, work: Callable[[int], object]) -> list[int]:
    """Call ``work(rank)`` in ``world`` forked processes; return their exit codes.

    The parent has imported everything and computed nothing: starting this many interpreters
    would take far longer than the test.
    """
    torch.set_num_threads(1)
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work(rank)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    # waits for each process
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def fork_group(world: int, folder: Path, work: Callable[[int], object]) -> None:
    """Call ``work(rank)`` in ``world`` forked processes of one gloo group; fail if one does."""
    os.chdir(folder)  # where mmengine collects results

    def within_group(rank: int) -> None:
        store = f"file://{folder / f'store{world}'}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
        work(rank)
        dist.barrier()
        leave_group()

    if any(fork(world, within_group)):
        sys.exit(1)
