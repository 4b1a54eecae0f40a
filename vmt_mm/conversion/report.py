"""What a conversion came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from vmt_mm.conversion.image import DAMAGED, MISSING, NO_IMAGE, NONE, WRITTEN, Outcome
from vmt_mm.conversion.recipe import Recipe
from vmt_mm.utils.files import write_json

#: File with the report, beside the converted folders.
REPORT = "report.json"


@dataclass
class Report:
    """Counts and problems.

    Attributes:
        name: of the data set.
        expected: split -> how many ids it should have.
        counts: split -> 'image' or task -> state -> how many.
        converted: how many images were converted now; the others were whole already.
        notes: task -> sums of its notes.
        problems: in words, each with the file's name; the set is whole if there is none.
    """

    name: str
    expected: Mapping[str, int]
    counts: dict[str, dict[str, Counter]]
    converted: int
    notes: dict[str, Counter] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write ``report.json``."""
        write_json(folder / REPORT, self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Plain types."""
        splits = {
            split: dict(expected=self.expected[split], **{k: dict(v) for k, v in counts.items()})
            for split, counts in self.counts.items()
        }
        return dict(
            dataset=self.name,
            whole=not self.problems,
            converted_now=self.converted,
            splits=splits,
            notes={task: dict(counts) for task, counts in self.notes.items()},
            problems=self.problems,
        )

    def table(self) -> Table:
        """One row a split and task."""
        table = Table(title=self.name)
        table.add_column("split")
        table.add_column("what")
        for column in ("written", "no label", "missing", "damaged", "image unusable", "expected"):
            table.add_column(column, justify="right")
        for split, counts in self.counts.items():
            for name, states in counts.items():
                numbers = [f"{states[s]:,}" for s in (WRITTEN, NONE, MISSING, DAMAGED, NO_IMAGE)]
                expected = f"{self.expected[split]:,}" if name == "image" else ""
                table.add_row(split, name, *numbers, expected)
            table.add_section()
        return table


def make_report(
    recipe: Recipe,
    splits: Mapping[str, Sequence[str]],
    outcomes: Mapping[str, dict[str, Outcome]],
    converted: int,
) -> Report:
    """Count what became of every image of the splits."""
    counts = {
        split: {
            name: Counter(outcomes[i][name]["state"] for i in ids)
            for name in ("image", *(rule.task for rule in recipe.labels))
        }
        for split, ids in splits.items()
    }
    report = Report(recipe.name, recipe.expected, counts, converted)
    for split, ids in splits.items():
        if len(ids) != recipe.expected[split]:
            report.problems.append(
                f"{recipe.splits[split]}: lists {len(ids):,} ids, {recipe.name} has "
                f"{recipe.expected[split]:,}"
            )
    listed = Counter(i for ids in splits.values() for i in ids)
    report.problems += [f"id {i!r} is in more than one split" for i in listed if listed[i] > 1]
    reasons = []
    for image_id in listed:
        for task, outcome in outcomes[image_id].items():
            reasons += outcome.get("reasons", ())
            report.notes.setdefault(task, Counter()).update(outcome.get("notes", {}))
    report.problems += dict.fromkeys(reasons)  # a file that several labels need is named once
    report.notes = {task: notes for task, notes in report.notes.items() if notes}
    if recipe.judge is not None:
        report.problems += recipe.judge(report.notes)
    return report
