"""Load checkpoints and adapter files into models; add, remove and rename tasks."""
