"""Hooks of training and test runs; ``vmt_mm.registry`` lists the modules."""
