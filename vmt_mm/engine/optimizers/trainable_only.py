"""Give the optimizer what trains, in few groups."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import nn

from vmt_mm.errors import InputError
from vmt_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from vmt_mm.utils.compat import FUSES_ON_CPU
from vmt_mm.utils.modules import unwrap

#: PyTorch's optimizers that can update all parameters in one kernel, on these devices.
_FUSED, _DEVICES = ("Adam", "AdamW", "SGD"), ("cpu", "cuda")


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TrainableOnlyConstructor:
    """Build an optimizer over the trainable parameters alone.

    Adam, AdamW and SGD update all parameters in one kernel (``fused``) unless the config says how.

    mmengine's default hands frozen parameters to the optimizer too, and makes one group for each
    parameter once any option differs.

    Args:
        optim_wrapper_cfg: the config's ``optim_wrapper``.
        paramwise_cfg: ``dict(custom_keys={PART: dict(lr_mult=..., decay_mult=...)})`` for
            parameters whose name contains PART; the longest match wins.

    Raises:
        InputError: if nothing trains, an option is unknown, or no parameter is named so.
    """

    def __init__(self, optim_wrapper_cfg: Mapping, paramwise_cfg: Mapping | None = None) -> None:
        self.optim_wrapper_cfg = dict(optim_wrapper_cfg)
        if not isinstance(paramwise_cfg or {}, Mapping):
            raise InputError(
                f"paramwise_cfg must be a dictionary such as dict(custom_keys={{...}}), got "
                f"{paramwise_cfg!r}"
            )
        self.custom_keys = dict((paramwise_cfg or {}).get("custom_keys", {}))
        unknown = set(paramwise_cfg or {}) - {"custom_keys"}
        for options in self.custom_keys.values():
            unknown |= set(options) - {"lr_mult", "decay_mult"}
        if unknown:
            raise InputError(
                f"paramwise_cfg: unknown option(s) {sorted(unknown)}; known: custom_keys, with "
                "lr_mult and decay_mult"
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer and its wrapper for ``model``."""
        model = unwrap(model)
        wrapper_cfg = dict(self.optim_wrapper_cfg)
        wrapper_cfg.setdefault("type", "OptimWrapper")
        optimizer_cfg = dict(wrapper_cfg.pop("optimizer"))
        optimizer_cfg["params"] = self._groups(
            model, optimizer_cfg.get("lr"), optimizer_cfg.get("weight_decay")
        )
        if _has_fused_step(optimizer_cfg):
            optimizer_cfg["fused"] = True
        optimizer = OPTIMIZERS.build(optimizer_cfg)
        return OPTIM_WRAPPERS.build(wrapper_cfg, default_args=dict(optimizer=optimizer))

    def _groups(self, model: nn.Module, lr: float | None, weight_decay: float | None) -> list[dict]:
        self._check_keys(model)
        groups: dict[tuple[float, float], dict] = {}
        # by name: a norm over all gradients must not depend on the order of tasks
        for name, parameter in sorted(model.named_parameters()):
            if not parameter.requires_grad:
                continue
            keys = [key for key in self.custom_keys if key in name]
            options = self.custom_keys[max(keys, key=len)] if keys else {}
            factors = (options.get("lr_mult", 1.0), options.get("decay_mult", 1.0))
            if factors not in groups:
                groups[factors] = dict(params=[])
                scaled = dict(lr=(lr, factors[0]), weight_decay=(weight_decay, factors[1]))
                for option, (value, factor) in scaled.items():
                    if value is not None:
                        groups[factors][option] = value * factor
                    elif factor != 1.0:
                        raise InputError(
                            f"paramwise_cfg: a factor of {option} needs the optimizer's {option}"
                        )
            groups[factors]["params"].append(parameter)
        if not groups:
            raise InputError("the model has no trainable parameter")
        return list(groups.values())

    def _check_keys(self, model: nn.Module) -> None:
        """Refuse custom keys that name no parameter; warn of those that name frozen ones alone."""
        names = [name for name, _ in model.named_parameters()]
        trainable = [name for name, p in model.named_parameters() if p.requires_grad]
        for key in self.custom_keys:
            if not any(key in name for name in names):
                raise InputError(
                    f"paramwise_cfg.custom_keys: {key!r} is part of no parameter's name; names are "
                    f"such as {(trainable or names)[:1]}"
                )
            if not any(key in name for name in trainable):
                print_log(
                    f"paramwise_cfg.custom_keys: {key!r} names frozen parameters alone and "
                    "changes nothing",
                    "current",
                    logging.WARNING,
                )


def _has_fused_step(cfg: Mapping[str, Any]) -> bool:
    """Whether an optimizer can, and its config does not say how it steps."""
    chosen = {"fused", "foreach", "capturable", "differentiable"} & set(cfg)
    parameters = [p for group in cfg["params"] for p in group["params"]]
    return (
        cfg["type"] in _FUSED
        and not chosen
        and FUSES_ON_CPU
        and all(p.device.type in _DEVICES and p.is_floating_point() for p in parameters)
    )
