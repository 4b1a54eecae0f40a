"""Fixtures of the small runs, and of a small model whose heads are random."""

from small_runs import scenes, small_run, whole  # noqa: F401
from untrained import checkpoint, inferencer, model  # noqa: F401
