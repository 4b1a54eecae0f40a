"""A checkpoint or adapter file into a model, the frozen backbone put back, edits of tasks."""
