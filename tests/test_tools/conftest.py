"""Fixtures of the small runs."""

from small_runs import scenes, whole  # noqa: F401
