"""Optimizers of the trainable parameters, and training in bfloat16."""

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
    """Autocasts forward passes to bfloat16, on any device; parameters stay float32."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Context of a forward pass."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TrainableOnlyConstructor:
    """Build the optimizer from the trainable parameters only, in few parameter groups.

    ``paramwise_cfg=dict(custom_keys={PART: dict(lr_mult=0.1, decay_mult=0.0)})`` scales learning
    rate and weight decay of parameters whose name contains PART; the longest match wins.
    """

    def __init__(self, optim_wrapper_cfg: Mapping, paramwise_cfg: Mapping | None = None) -> None:
        self.optim_wrapper_cfg = dict(optim_wrapper_cfg)
        try:
            (keys,) = {"custom_keys": {}, **(paramwise_cfg or {})}.values()
            self.factors = {part: _Factors(**options) for part, options in keys.items()}
        except (TypeError, ValueError) as error:
            form = "dict(custom_keys={PART: dict(lr_mult=0.1, decay_mult=0.0)})"
            raise InputError(f"`paramwise_cfg` must be {form}, got {paramwise_cfg!r}") from error

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer and its wrapper for ``model``."""
        model, wrapper = unwrap(model), {"type": "OptimWrapper", **self.optim_wrapper_cfg}
        optimizer = dict(wrapper.pop("optimizer"))
        optimizer["params"] = self._groups(model, optimizer)
        device, kind = next(model.parameters()).device.type, optimizer["type"]
        can_fuse = FUSES_ON_CPU and device in ("cpu", "cuda") and kind in ("Adam", "AdamW", "SGD")
        # a fused kernel updates all parameters at once, unless the config sets another
        if can_fuse and not {"fused", "foreach", "capturable", "differentiable"} & optimizer.keys():
            optimizer["fused"] = True
        built = OPTIMIZERS.build(optimizer)
        return OPTIM_WRAPPERS.build(wrapper, default_args=dict(optimizer=built))

    def _groups(self, model: nn.Module, options: Mapping[str, Any]) -> list[dict]:
        """Return one parameter group per pair of factors, with the scaled options."""
        # sorted: the norm of all gradients must not depend on the order of tasks
        parameters = sorted(model.named_parameters())
        for key in self.factors:
            if not any(key in name for name, _ in parameters):
                problem = f"no parameter name contains {key!r}; one name is {parameters[-1][0]!r}"
                raise InputError(f"paramwise_cfg.custom_keys: {problem}")
        groups: dict[_Factors, dict] = {}
        for name, parameter in parameters:
            keys = [key for key in self.factors if key in name]
            factors = self.factors[max(keys, key=len)] if keys else _Factors()
            if parameter.requires_grad:
                group = groups.setdefault(factors, dict(_scaled(options, factors), params=[]))
                group["params"].append(parameter)
        if not groups:
            raise InputError("the model has no trainable parameters")
        return list(groups.values())


class _Factors(NamedTuple):
    """Factors of learning rate and weight decay."""

    lr_mult: float = 1.0
    decay_mult: float = 1.0


def _scaled(options: Mapping[str, Any], factors: _Factors) -> dict[str, float]:
    """Learning rate and weight decay, if their factor is not 1, times the factor."""
    named = zip(("lr", "weight_decay"), factors, strict=True)
    try:
        return {option: options[option] * factor for option, factor in named if factor != 1.0}
    except KeyError as error:
        raise InputError(f"paramwise_cfg: to scale {error}, set it in `optimizer`") from error
