"""Start and end distributed runs, on GPUs (nccl) or CPUs (gloo)."""

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
from vmt_mm.utils.memory import keep_freed_memory

LAUNCHERS = ("none", "pytorch", "slurm")


@contextmanager
def distributed(launcher: str) -> Iterator[int]:
    """Join the process group of ``launcher``, yield the number of processes, leave it at the end.

    The body must not leave references to models: they keep the group alive.
    """
    keep_freed_memory()
    with friendly_errors():
        _join(launcher)
    try:
        with friendly_errors():
            yield get_world_size()
    except BaseException as error:
        found: BaseException | None = error
        while dist.is_initialized() and found is not None:
            traceback.clear_frames(found.__traceback__)  # which refer to the model
            found = found.__context__
        raise
    finally:
        if dist.is_initialized():
            gc.collect()  # runners and models, which refer to the group, are in cycles
            leave_group()


def leave_group() -> None:
    """Destroy the process group after gloo's threads have released the last tensors."""
    time.sleep(0.1)  # they need the GIL, which PyTorch before 2.5 holds during destruction
    dist.destroy_process_group()


def _join(launcher: str) -> None:
    """Join the group; on CPUs by torchrun's environment variables, also under slurm."""
    if launcher not in LAUNCHERS:
        raise InputError(f"launcher must be one of {LAUNCHERS}, got {launcher!r}")
    if launcher == "none":
        return
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        if int(os.environ.get("LOCAL_RANK", 0)) >= count:
            raise InputError(f"more processes per machine than GPUs: {count} visible to PyTorch")
        init_dist(launcher, backend="nccl")
        return
    if launcher == "slurm":
        if "MASTER_ADDR" not in os.environ:
            command = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
            hosts = subprocess.run(command, check=True, capture_output=True, text=True)
            os.environ["MASTER_ADDR"] = hosts.stdout.split()[0]
        os.environ.setdefault("MASTER_PORT", "29500")
        os.environ["RANK"] = os.environ["SLURM_PROCID"]
        os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
        os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    dist.init_process_group("gloo")
