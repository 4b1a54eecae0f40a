"""Parsing and printing that the tools share."""

import argparse
import os
import re
import sys
from collections.abc import Sequence

#: Number of problems that are printed; the report has all.
_SHOWN = 20
#: The name before a path in an argument: --out=, data_root=, model.backbone.pretrained=.
_NAME = re.compile(r"(?:-{0,2}[\w.-]+=)?(?=~)")
#: KEY={, a dict, which mmengine would take for a string, or a list of strings.
_DICT = re.compile(r"([\w.]+)=\{")


class ToolParser(argparse.ArgumentParser):
    """A parser that expands ``~``, also in ``--out=~/here``, and refuses dicts in KEY=VALUE."""

    def parse_known_args(self, args=None, namespace=None):  # noqa: ANN001, ANN201, D102
        given = sys.argv[1:] if args is None else args
        for key in [found[1] for one in given if (found := _DICT.match(one))]:
            self.error(f"{key}: the value cannot be a dict; set its keys, as in {key}.KEY=VALUE")
        return super().parse_known_args([expand_argument(one) for one in given], namespace)


def expand_argument(argument: str) -> str:
    """Expand ``~`` at the start of an argument or its value."""
    start = name.end() if (name := _NAME.match(argument)) else 0
    return argument[:start] + os.path.expanduser(argument[start:])


def print_problems(problems: Sequence[str]) -> None:
    """Print the first problems, one per line, and the number of the others."""
    for problem in problems[:_SHOWN]:
        print(problem)
    if len(problems) > _SHOWN:
        print(f"... and {len(problems) - _SHOWN:,} more")
