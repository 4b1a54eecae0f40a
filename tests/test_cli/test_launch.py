"""Process groups by slurm's variables."""

import os
import subprocess
import sys

import pytest
from commands import ROOT
from waiting import PATIENCE, free_port

_PROGRAM = (
    "from vmt_mm.cli.launch import distributed\n"
    "from mmengine.dist import get_rank\n"
    "with distributed('slurm') as processes:\n"
    "    print(get_rank(), 'of', processes)\n"
)


def test_slurm_processes_find_each_other(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    environment |= dict(SLURM_NTASKS="2", MASTER_PORT=free_port(), CUDA_VISIBLE_DEVICES="")
    # without MASTER_ADDR the first of slurm's hosts is asked for
    program = tmp_path / "scontrol"
    program.write_text("#!/bin/sh\ntest \"$3\" = 'node[1-2]' && echo 127.0.0.1 && echo node2\n")
    program.chmod(0o755)
    environment |= dict(SLURM_NODELIST="node[1-2]", PATH=f"{tmp_path}:{environment['PATH']}")
    environment.pop("MASTER_ADDR", None)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            cwd=ROOT,
            env={**environment, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    results = [process.communicate(timeout=PATIENCE) for process in processes]
    for rank, (output, errors) in enumerate(results):
        assert output.strip() == f"{rank} of 2", errors


@pytest.mark.parametrize("failure", ["InputError", "OSError"])
def test_of_processes_that_fail_alike_one_speaks(tmp_path, failure):
    raised = "InputError('same for all')" if failure == "InputError" else "OSError(28, 'No space')"
    program = tmp_path / "fail.py"
    program.write_text(
        "from vmt_mm.cli.launch import distributed\n"
        "from vmt_mm.errors import InputError\n"
        f"with distributed('pytorch'):\n    raise {raised}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2",
         f"--master_port={free_port()}", str(program)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert ("same for all" if failure == "InputError" else "disk is full") in lines[0]
