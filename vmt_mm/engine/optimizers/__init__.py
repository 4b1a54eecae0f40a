"""Optimizer construction."""

from vmt_mm.engine.optimizers.bf16_optim_wrapper import BFloat16OptimWrapper
from vmt_mm.engine.optimizers.trainable_only import TrainableOnlyConstructor

__all__ = ["BFloat16OptimWrapper", "TrainableOnlyConstructor"]
