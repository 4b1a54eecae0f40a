"""Process groups from the environment variables of slurm and torchrun."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest
from mmengine.dist import get_rank
from processes import fork, run_forked
from waiting import free_port

from vmt_mm.cli.launch import distributed
from vmt_mm.errors import InputError

pytestmark = pytest.mark.processes

ERRORS = {"InputError": InputError("same for all"), "OSError": OSError(28, "No space")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Output of the processes of every group, and their exit codes."""
    folder = tmp_path_factory.mktemp("launch")
    run_forked(__file__, folder)
    return folder


def codes(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_slurm_processes_find_each_other(folder):
    assert codes(folder, "slurm") == [0, 0]
    for rank in (0, 1):
        assert (folder / f"slurm_{rank}.txt").read_text().strip() == f"{rank} of 2"


@pytest.mark.parametrize("failure", ERRORS)
def test_one_of_several_processes_prints_a_common_error(folder, failure):
    assert codes(folder, failure) == [1, 1]
    lines = "".join((folder / f"{failure}_{rank}.txt").read_text() for rank in (0, 1)).splitlines()
    lines = [line for line in lines if line.startswith("error: ")]
    assert len(lines) == 1
    assert ("same for all" if failure == "InputError" else "disk is full") in lines[0]


def in_group(rank, launcher, variables, folder, name):
    """Join a group by its variables; print the rank to a file, or fail."""
    printed = os.open(folder / f"{name}_{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(printed, sys.stdout.fileno())
    os.dup2(printed, sys.stderr.fileno())
    os.environ.update({key: value.format(rank=rank) for key, value in variables.items()})
    with distributed(launcher) as processes:
        if name in ERRORS:
            raise ERRORS[name]
        print(get_rank(), "of", processes)


def main(folder):
    """Start every group."""
    for key in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        os.environ.pop(key, None)
    # without MASTER_ADDR, the first of slurm's hosts is used
    program = folder / "scontrol"
    program.write_text("#!/bin/sh\ntest \"$3\" = 'node[1-2]' && echo 127.0.0.1 && echo node2\n")
    program.chmod(0o755)
    os.environ |= dict(CUDA_VISIBLE_DEVICES="", PATH=f"{folder}:{os.environ['PATH']}")
    slurm = dict(SLURM_NODELIST="node[1-2]", SLURM_NTASKS="2", SLURM_PROCID="{rank}",
                 SLURM_LOCALID="{rank}")  # fmt: skip
    torchrun = dict(MASTER_ADDR="127.0.0.1", WORLD_SIZE="2", RANK="{rank}", LOCAL_RANK="{rank}")
    groups = [("slurm", "slurm", slurm), *(("pytorch", name, torchrun) for name in ERRORS)]
    for launcher, name, variables in groups:
        variables = {**variables, "MASTER_PORT": free_port()}
        work = partial(in_group, launcher=launcher, variables=variables, folder=folder, name=name)
        (folder / f"{name}.json").write_text(json.dumps(fork(2, work)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
