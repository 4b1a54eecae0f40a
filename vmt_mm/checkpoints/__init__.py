"""Checkpoint and adapter files: keys, safe reading, atomic writing."""
