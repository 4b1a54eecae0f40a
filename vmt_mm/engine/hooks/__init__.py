"""Hooks; the registry names the files."""
