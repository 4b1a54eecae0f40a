"""Run a tool within the test's process, where the libraries are loaded already."""

import runpy
import sys

import pytest
from commands import ROOT


def run_here(monkeypatch, capsys, script, *arguments):
    """Run a script of the repository; return its exit status and what it printed."""
    with monkeypatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(script, run_name="__main__")
    return ended.value.code, "".join(capsys.readouterr())
