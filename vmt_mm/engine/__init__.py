"""Runner, training loops, hooks and optimizers."""
