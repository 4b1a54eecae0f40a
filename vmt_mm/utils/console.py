"""What several tools print alike."""

from __future__ import annotations

from collections.abc import Sequence

#: How many problems are printed; the report has them all.
_SHOWN = 20


def print_problems(problems: Sequence[str]) -> None:
    """Print the first problems, one a line, and how many more there are."""
    for problem in problems[:_SHOWN]:
        print(problem)
    if len(problems) > _SHOWN:
        print(f"... and {len(problems) - _SHOWN:,} more")
