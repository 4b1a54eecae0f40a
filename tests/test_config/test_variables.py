"""A variable of a base file that is overridden without effect is refused."""

import pytest

from vmt_mm.config import load_config
from vmt_mm.errors import InputError

_BASE = "steps = [1, 2]\nparam_scheduler = dict(type='MultiStepLR', milestones=steps)\nlr = 0.1\n"


def _check(tmp_path, lines: str, base: str = _BASE) -> None:
    (tmp_path / "base.py").write_text(base)
    path = tmp_path / "own.py"
    path.write_text(f"_base_ = 'base.py'\n{lines}\n")
    load_config(path, training=False)


@pytest.mark.parametrize(
    ("lines", "named"),
    [("steps = [3, 4]", "'steps' has no effect"), ("lr = 0.2", "'lr' has no effect")],
)
def test_a_variable_that_the_base_has_used_is_refused(tmp_path, lines, named):
    with pytest.raises(InputError, match=named):
        _check(tmp_path, lines)


@pytest.mark.parametrize(
    "lines",
    [
        "steps = [3, 4]\nparam_scheduler = dict(milestones=steps)",
        "steps = [1, 2]",  # the base's value
        "mine = 3",
        "load_from = None",  # read by the runner
    ],
)
def test_variables_that_are_used_or_change_nothing(tmp_path, lines):
    _check(tmp_path, lines)


def test_a_file_without_a_base_may_set_anything(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("steps = [1]\n")
    load_config(path)
