"""Names of classes in results, and the table of what each of them scored."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

#: Rows of a table before it goes on in a block at its side, and the most blocks.
_ROWS, _BLOCKS = 32, 3
_WIDTH, _NAME_WIDTH = 160, 24


def class_names(meta: Mapping[str, Any], count: int) -> list[str]:
    """The classes' names from the dataset's metainfo; numbers where it has none.

    Names that occur twice get their number, too, so that each result has a key of its own.
    """
    names = [str(name) for name in meta.get("classes") or ()]
    if len(names) != count:
        return [str(index) for index in range(count)]
    return [
        name if names.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(names)
    ]


def class_table(names: Sequence[str], columns: Mapping[str, np.ndarray]) -> str:
    """Table of all classes, as text; many classes stand in several blocks side by side.

    Args:
        names: of the classes.
        columns: head -> value of every class, NaN where there is none.
    """
    blocks = min(_BLOCKS, ceil(len(names) / _ROWS))
    rows = ceil(len(names) / blocks)
    table = Table()
    for _ in range(blocks):
        table.add_column("class", max_width=_NAME_WIDTH, no_wrap=True)
        for head in columns:
            table.add_column(head, justify="right")
    for row in range(rows):
        cells: list[str] = []
        for index in range(row, len(names), rows):
            values = [values[index] for values in columns.values()]
            cells += [names[index], *("-" if np.isnan(v) else f"{v:.2f}" for v in values)]
        table.add_row(*cells)
    buffer = io.StringIO()
    Console(file=buffer, width=_WIDTH, markup=False, highlight=False).print(table)
    return buffer.getvalue().rstrip()
