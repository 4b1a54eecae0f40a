"""Hooks and optimizer construction."""
