"""Checkpoint and adapter files: their keys, safe reading, atomic writing."""
