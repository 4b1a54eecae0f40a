"""Optimizers over the trainable parameters, and training in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from vmt_mm.errors import InputError
from vmt_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from vmt_mm.utils.compat import FUSES_ON_CPU
from vmt_mm.utils.modules import unwrap


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Forward passes in bfloat16 by autocast, on any device; parameters stay float32."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enclose a forward pass."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TrainableOnlyConstructor:
    """Build an optimizer over the trainable parameters alone, in few groups.

    ``paramwise_cfg=dict(custom_keys={PART: dict(lr_mult=..., decay_mult=...)})`` is for parameters
    whose name contains PART; the longest match wins.
    """

    def __init__(self, optim_wrapper_cfg: Mapping, paramwise_cfg: Mapping | None = None) -> None:
        self.optim_wrapper_cfg = dict(optim_wrapper_cfg)
        try:
            (keys,) = {"custom_keys": {}, **(paramwise_cfg or {})}.values()
            self.factors = {part: _Factors(**options) for part, options in keys.items()}
        except (TypeError, ValueError) as error:
            form = "dict(custom_keys={PART: dict(lr_mult=0.1, decay_mult=0.0)})"
            raise InputError(f"paramwise_cfg must be as {form}, got {paramwise_cfg!r}") from error

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer and its wrapper for ``model``."""
        model, wrapper = unwrap(model), {"type": "OptimWrapper", **self.optim_wrapper_cfg}
        optimizer = dict(wrapper.pop("optimizer"))
        optimizer["params"] = self._groups(model, optimizer)
        device, kind = next(model.parameters()).device.type, optimizer["type"]
        can_fuse = FUSES_ON_CPU and device in ("cpu", "cuda") and kind in ("Adam", "AdamW", "SGD")
        # unless the config says how, one kernel updates all parameters
        if can_fuse and not {"fused", "foreach", "capturable", "differentiable"} & optimizer.keys():
            optimizer["fused"] = True
        built = OPTIMIZERS.build(optimizer)
        return OPTIM_WRAPPERS.build(wrapper, default_args=dict(optimizer=built))

    def _groups(self, model: nn.Module, options: Mapping[str, Any]) -> list[dict]:
        """One group for each pair of factors, with the values that they give."""
        # by name: a norm over all gradients must not depend on the order of tasks
        parameters = sorted(model.named_parameters())
        for key in self.factors:
            if not any(key in name for name, _ in parameters):
                example = f"names are such as {parameters[-1][0]!r}"
                raise InputError(f"custom_keys: {key!r} is part of no parameter's name; {example}")
        groups: dict[_Factors, dict] = {}
        for name, parameter in parameters:
            keys = [key for key in self.factors if key in name]
            factors = self.factors[max(keys, key=len)] if keys else _Factors()
            if parameter.requires_grad:
                group = groups.setdefault(factors, dict(_scaled(options, factors), params=[]))
                group["params"].append(parameter)
        if not groups:
            raise InputError("the model has no trainable parameter")
        return list(groups.values())


class _Factors(NamedTuple):
    """Of learning rate and weight decay."""

    lr_mult: float = 1.0
    decay_mult: float = 1.0


def _scaled(options: Mapping[str, Any], factors: _Factors) -> dict[str, float]:
    """Learning rate and weight decay times factors other than 1."""
    named = zip(("lr", "weight_decay"), factors, strict=True)
    try:
        return {option: options[option] * factor for option, factor in named if factor != 1.0}
    except KeyError as error:
        raise InputError(f"paramwise_cfg: a factor of {error} needs a value for all") from error
