"""What a conversion came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from vmt_mm.conversion.image import STATES, Outcome
from vmt_mm.conversion.recipe import Recipe

#: File with the report, next to the converted folders.
REPORT = "report.json"


@dataclass
class Report:
    """Counts and problems; without any ``problems`` the dataset is complete.

    ``converted_now`` counts images; the others were done already. ``splits`` maps a split to
    'expected', its number of ids, and for 'image' and each task state -> number.
    """

    dataset: str
    converted_now: int
    splits: Mapping[str, Mapping[str, Any]]
    notes: Mapping[str, Mapping[str, int]]
    problems: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """What ``report.json`` holds."""
        return dict(vars(self), whole=not self.problems)

    def table(self) -> Table:
        """One row per split and task."""
        table = Table("split", "what", *STATES, "expected", title=self.dataset)
        for split, counts in self.splits.items():
            for name in list(counts)[1:]:
                numbers = [f"{counts[name].get(state, 0):,}" for state in STATES]
                table.add_row(split, name, *numbers, f"{counts['expected']:,}")
            table.add_section()
        return table


def make_report(
    recipe: Recipe,
    splits: Mapping[str, Sequence[str]],
    outcomes: Mapping[str, dict[str, Outcome]],
    converted: int,
) -> Report:
    """Count what became of every image of the splits."""
    names = ("image", *(rule.task for rule in recipe.labels))
    counts, problems = {}, []
    for split, ids in splits.items():
        states = {name: dict(Counter(outcomes[i][name]["state"] for i in ids)) for name in names}
        counts[split] = dict(expected=recipe.expected[split], **states)
        if len(ids) != recipe.expected[split]:
            expected = f"{recipe.expected[split]:,} are expected"
            problems.append(f"{recipe.splits[split]}: lists {len(ids):,} ids, {expected}")
    listed = Counter(i for ids in splits.values() for i in ids)
    problems += [f"id {i!r} is in more than one split" for i in listed if listed[i] > 1]
    every = [(name, outcome) for i in listed for name, outcome in outcomes[i].items()]
    # a file that several labels need is named once
    problems += dict.fromkeys(outcome["reason"] for _, outcome in every if "reason" in outcome)
    notes: dict[str, Counter] = {}
    for name, outcome in every:
        if outcome.get("notes"):
            notes.setdefault(name, Counter()).update(outcome["notes"])
    problems += recipe.judge(notes) if recipe.judge else ()
    return Report(recipe.name, converted, counts, notes, problems)
