"""Start and end of distributed runs, on GPUs (nccl) and on CPUs (gloo)."""

from __future__ import annotations

import gc
import os
import subprocess
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size, init_dist

from vmt_mm.cli.errors import friendly_errors
from vmt_mm.errors import InputError

LAUNCHERS = ("none", "pytorch", "slurm")
#: Seconds in which the threads of a process group end what they are about.
_PAUSE = 0.1


@contextmanager
def distributed(launcher: str) -> Iterator[int]:
    """Join the process group of ``launcher``, yield the number of processes, leave it at the end.

    mmengine's own start needs a GPU in every process; here CPU processes use gloo. Errors end the
    program as :func:`friendly_errors` says, before the group is left.

    What runs within must be a function of its own that keeps no model behind: a group that a model
    still refers to is not ended by its destruction, and one of its threads that lets go of a tensor
    while the interpreter exits aborts the process.

    Args:
        launcher: 'none', 'pytorch' (torchrun) or 'slurm'.
    """
    with friendly_errors():
        _join(launcher)
    try:
        with friendly_errors():
            yield get_world_size()
    except BaseException as error:
        if dist.is_initialized():  # else a debugger may want to look at them
            _clear_frames(error)
        raise
    finally:
        if dist.is_initialized():
            gc.collect()  # runners and models, which refer to the group and to each other
            leave_group()


def leave_group() -> None:
    """Destroy the process group once gloo's threads have let go of the last tensors.

    For that they need the interpreter's lock, which PyTorch before 2.5 holds while it waits for
    them to end: without the pause a run may hang here for ever.
    """
    time.sleep(_PAUSE)
    dist.destroy_process_group()


def _clear_frames(error: BaseException | None) -> None:
    """Let go of the variables that an error's frames hold, and those of the errors before it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _join(launcher: str) -> None:
    if launcher not in LAUNCHERS:
        raise InputError(f"launcher must be one of {LAUNCHERS}, got {launcher!r}")
    if launcher == "none":
        return
    if torch.cuda.is_available():
        if int(os.environ.get("LOCAL_RANK", 0)) >= torch.cuda.device_count():
            raise InputError(
                f"more processes than the {torch.cuda.device_count()} GPU(s) of this machine; "
                "CUDA_VISIBLE_DEVICES= (empty) runs them on the CPU"
            )
        init_dist(launcher, backend="nccl")
        return
    if launcher == "slurm":
        _export_slurm()
    dist.init_process_group("gloo")


def _export_slurm() -> None:
    """Set the variables that ``init_process_group`` reads, from slurm's."""
    if "MASTER_ADDR" not in os.environ:
        nodes = os.environ["SLURM_NODELIST"]
        hosts = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], check=True, capture_output=True, text=True
        )
        os.environ["MASTER_ADDR"] = hosts.stdout.split()[0]
    os.environ.setdefault("MASTER_PORT", "29500")
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
