"""The project's English: a few habits that are hard to read stay rare.

No other test reads the wording of code, comments and pages.
"""

import re
import subprocess
from bisect import bisect
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT = 40
KINDS = ("*.py", "*.md", "*.toml", "*.yml", "*.sh", "*Makefile")

_COUNTED = (
    "once|one|two|each|one pass|copies|heads|passes|vectors?|scales?|frames|images|times|seconds|ms"
)
_UNITS = "task|block|stage|layer|epoch|step|iteration|image|second|process|run|class"

#: Habit -> pattern. Lookarounds exclude plain English, such as "no longer" or "whole numbers".
HABITS = {
    "former": r"\bformer\b",
    "whole": r"""(?<!as a )(?<!["'])\bwhole\b(?! numbers?\b)(?!=)""",
    "is no X": r"(?<!there )\b(?:is|are|was|were) no\b(?! (?:longer|more|less|fewer|other)\b)",
    "beside": r"\bbeside\b",
    "of its own": r"\bof (?:its|your|their|one's) own\b",
    "stands for": r"\bstands? (?:for|in|there|below|above)\b",
    "a task (per task)": rf"\b(?:{_COUNTED}) an? (?:{_UNITS})\b",
    "anew": r"\banew\b|\bcom(?:es?|ing) to be\b|\bfor want of\b",
    "goes on": r"\b(?:go|goes|going|went|gone) on\b",
    "what trains": r"\bwhat (?:trains|was trained)\b",
    "reaches nothing": r"\breach(?:es|ed)? nothing\b",
    "mend": r"\bmend(?:s|ed|ing)?\b",
    "data set": r"\bdata sets?\b",
}


def find_habits(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, habit) of every use, also across line breaks."""
    lines = [line.strip(" #") for line in text.splitlines()]
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    for habit, pattern in HABITS.items():
        for match in re.finditer(pattern, " ".join(lines), re.IGNORECASE):
            yield bisect(starts, match.start()), habit


@pytest.mark.processes
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git lists the files")
def test_habits_are_rare():
    listing = ["git", "ls-files", "--", *KINDS, ":!requirements"]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    uses = [
        f"{name}:{number}: {habit}"
        for name in files.splitlines()
        if ROOT / name != Path(__file__)
        for number, habit in find_habits((ROOT / name).read_text())
    ]
    assert len(uses) <= LIMIT, "\n".join([f"{len(uses)} uses, at most {LIMIT} are allowed", *uses])


@pytest.mark.parametrize(
    ("text", "habits"),
    [
        ("# the former value\n# is no\n# dataset", [(1, "former"), (2, "is no X")]),
        ("one vector a task, and two scales a block", [(1, "a task (per task)")] * 2),
        ("SegFormer is no longer slow; there is no bias; run a task", []),
        ("two whole numbers, as a whole, dict(mode='whole', whole=True)", []),
        ("the mean over the whole set of a recommended dataset", [(1, "whole")]),
    ],
)
def test_plain_english_does_not_count(text, habits):
    assert list(find_habits(text)) == habits
