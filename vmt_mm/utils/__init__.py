"""Utilities: files and their formats, processes, console, compatibility with PyTorch versions."""
