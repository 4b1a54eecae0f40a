"""Optimizer construction."""

from vmt_mm.engine.optimizers.trainable_only import TrainableOnlyConstructor

__all__ = ["TrainableOnlyConstructor"]
