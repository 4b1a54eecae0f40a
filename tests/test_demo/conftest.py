"""Fixtures of this folder."""

from untrained import checkpoint, inferencer, model  # noqa: F401
