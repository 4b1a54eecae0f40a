"""What several tools read and print alike."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

#: How many problems are printed; the report has them all.
_SHOWN = 20
#: What may stand before a path in an argument: --out=, data_root=, model.backbone.pretrained=.
_NAME = re.compile(r"(?:-{0,2}[\w.-]+=)?(?=~)")


class ToolParser(argparse.ArgumentParser):
    """A command line whose arguments may begin with ``~``, the home folder, also behind a name.

    Shells replace it at the start of a word alone, not in ``--out=~/here`` or ``data_root=~/data``.
    """

    def parse_known_args(self, args=None, namespace=None):  # noqa: ANN001, ANN201, D102
        given = sys.argv[1:] if args is None else args
        return super().parse_known_args([expand_argument(one) for one in given], namespace)


def expand_argument(argument: str) -> str:
    """An argument with the home folder for a ``~`` at its start, or at that of its value."""
    name = _NAME.match(argument)
    if name is None:
        return argument
    return argument[: name.end()] + os.path.expanduser(argument[name.end() :])


def print_problems(problems: Sequence[str]) -> None:
    """Print the first problems, one a line, and how many more there are."""
    for problem in problems[:_SHOWN]:
        print(problem)
    if len(problems) > _SHOWN:
        print(f"... and {len(problems) - _SHOWN:,} more")
