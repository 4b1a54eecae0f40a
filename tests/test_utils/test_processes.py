"""Worker processes return results in order, and end with the work or their parent."""

import operator
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE, wait_until

from vmt_mm.errors import InputError
from vmt_mm.utils.layout import read_ids
from vmt_mm.utils.processes import run_parallel

pytestmark = pytest.mark.processes

_SCRIPT = """
import os, pathlib, sys, time
from vmt_mm.utils.layout import read_ids
from vmt_mm.utils.processes import run_parallel

def work(number):
    pathlib.Path(sys.argv[1], str(os.getpid())).touch()
    while not pathlib.Path(sys.argv[2]).exists():
        time.sleep(0.01)
    return number

if __name__ == "__main__":
    for _ in run_parallel(work, range(1000), 2):
        pass
"""


# Workers cannot import a test module, so they run functions of libraries.
def test_results_come_in_order():
    for workers in (1, 2):
        assert list(run_parallel(operator.neg, range(9), workers)) == [-n for n in range(9)]
    assert list(run_parallel(operator.neg, [], 2)) == []


def test_an_error_arrives_as_it_was_raised(tmp_path):
    (tmp_path / "train.txt").write_text("")
    with pytest.raises(InputError, match="train.txt: contains no id"):
        list(run_parallel(read_ids, [tmp_path / "train.txt"] * 2, 2))


def test_a_worker_that_was_killed_is_named():
    with pytest.raises(InputError, match="one of 2 worker processes was killed"):
        list(run_parallel(os._exit, [1, 2], 2))


def _alive(pid):
    """Whether a process runs; zombies do not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    (tmp_path / "pids").mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "pids"), str(tmp_path / "go")],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert wait_until(lambda: len(os.listdir(tmp_path / "pids")) == 2)
        pids = os.listdir(tmp_path / "pids")
        # A terminal's Ctrl-C reaches every process, a kill only the parent.
        (os.killpg if number == signal.SIGINT else os.kill)(parent.pid, number)
        if number == signal.SIGINT:
            (tmp_path / "go").touch()  # jobs that have started are finished
        assert parent.wait(PATIENCE) == -number
        assert wait_until(lambda: not any(map(_alive, pids)))
    finally:
        if any(map(_alive, [parent.pid, *os.listdir(tmp_path / "pids")])):
            os.killpg(parent.pid, signal.SIGKILL)
            parent.wait()
