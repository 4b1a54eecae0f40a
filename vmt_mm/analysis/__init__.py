"""Parameter counts, costs and comparisons of models and training runs."""
