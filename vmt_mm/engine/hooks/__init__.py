"""Hooks of trainings and tests; ``vmt_mm.registry`` lists the modules."""
