"""Parameter counts, costs and comparisons of models and trainings."""
