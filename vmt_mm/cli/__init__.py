"""Shared code of the tools: arguments, distributed launch, one-line errors."""
