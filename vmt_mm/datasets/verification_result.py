"""What is found in a data set: counts, problems, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from vmt_mm.datasets.transforms import LoadImageFromFile
from vmt_mm.tasks import LabelCounts, Task


@dataclass(frozen=True)
class Entry:
    """One image of a split, what reads it, and the label files that it has, by task."""

    sample_id: str
    image: str
    labels: Mapping[str, str]
    tasks: Mapping[str, Task]
    reader: LoadImageFromFile


@dataclass
class Verification:
    """The result.

    Attributes:
        root: folder of the data set.
        entries: split -> its images.
        summaries: split -> task -> :class:`~vmt_mm.tasks.LabelCounts`.
        problems: in words, each with the file's name; empty if nothing is wrong.
        notes: what is not wrong, and good to know.
    """

    root: Path
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    summaries: dict[str, dict[str, LabelCounts]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self, names: Mapping[str, Mapping[int, str]]) -> dict[str, Any]:
        """Plain types; ``names`` are those of the values, by task."""
        return dict(
            data_root=str(self.root),
            sound=not self.problems,
            splits={
                split: dict(
                    images=len(self.entries[split]),
                    tasks={
                        task: _summary_dict(summary, names.get(task, {}))
                        for task, summary in of_split.items()
                    },
                )
                for split, of_split in self.summaries.items()
            },
            problems=self.problems,
            notes=self.notes,
        )

    def table(self) -> Table:
        """One row a split and task."""
        table = Table(title=str(self.root))
        for column in ("split", "images", "task"):
            table.add_column(column, no_wrap=True)
        for column in ("labelled", "of images", "of their pixels", "classes seen"):
            table.add_column(column, justify="right")
        for split, summaries in self.summaries.items():
            count = len(self.entries[split])
            for task, summary in summaries.items():
                table.add_row(
                    split,
                    f"{count:,}",
                    task,
                    f"{summary.images:,}",
                    f"{summary.images / max(count, 1):.1%}",
                    f"{summary.valid / max(summary.pixels, 1):.1%}",
                    f"{len(summary.values)}" if summary.values else "-",
                )
            table.add_section()
        return table


def _summary_dict(summary: LabelCounts, names: Mapping[int, str]) -> dict[str, Any]:
    values = [
        dict(
            value=value,
            **({"name": names[value]} if value in names else {}),
            pixels=summary.values[value],
            images=summary.images_with[value],
        )
        for value in sorted(summary.values)
    ]
    return dict(
        images=summary.images, labelled_pixels=summary.valid, pixels=summary.pixels, values=values
    )
