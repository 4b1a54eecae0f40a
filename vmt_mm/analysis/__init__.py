"""Counts, costs and comparisons of models and trainings."""
