"""Fixtures of the small runs."""

from small_runs import scenes, small_run, whole  # noqa: F401
