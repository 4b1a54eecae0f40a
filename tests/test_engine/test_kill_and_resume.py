"""One SIGKILL of each kind; the script's default is twenty kills."""

import sys

import pytest
from commands import run_process


@pytest.mark.slow
@pytest.mark.processes
def test_killed_runs_end_where_an_uninterrupted_one_does(tmp_path):
    output = run_process(
        sys.executable, "tests/helpers/kill_and_resume.py", "--kills", "3", "--while-writing", "1",
        "--epochs-per-kill", "2", "--work-dir", tmp_path / "runs",
    )  # fmt: skip
    assert "3 kills: weights and metrics are those of the uninterrupted run" in output
