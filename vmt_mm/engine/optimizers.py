"""Optimizers over the trainable parameters, and training in bfloat16."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import nn

from vmt_mm.errors import InputError
from vmt_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from vmt_mm.utils.compat import FUSES_ON_CPU
from vmt_mm.utils.modules import unwrap

#: PyTorch's optimizers that can update all parameters in one kernel, on these devices.
_FUSED, _DEVICES = ("Adam", "AdamW", "SGD"), ("cpu", "cuda")


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Forward passes under autocast in bfloat16; parameters and their updates stay float32.

    bfloat16 has float32's range, so losses need no scaling. mmengine's ``AmpOptimWrapper`` runs on
    accelerators alone, and with a scaler.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enclose a forward pass."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TrainableOnlyConstructor:
    """Build an optimizer over the trainable parameters alone, in few groups.

    mmengine's default hands frozen parameters to the optimizer too, and makes one group for each
    parameter once any option differs. Adam, AdamW and SGD update all parameters in one kernel
    (``fused``) unless the config says how.

    Args:
        optim_wrapper_cfg: the config's ``optim_wrapper``.
        paramwise_cfg: ``dict(custom_keys={PART: dict(lr_mult=..., decay_mult=...)})`` for
            parameters whose name contains PART; the longest match wins.

    Raises:
        InputError: if nothing is trainable, an option is unknown, or a PART is in no name.
    """

    def __init__(self, optim_wrapper_cfg: Mapping, paramwise_cfg: Mapping | None = None) -> None:
        self.optim_wrapper_cfg = dict(optim_wrapper_cfg)
        given = paramwise_cfg or {}
        self.custom_keys = given.get("custom_keys", {}) if isinstance(given, Mapping) else None
        if (
            self.custom_keys is None
            or not given.keys() <= {"custom_keys"}
            or any(
                not options.keys() <= {"lr_mult", "decay_mult"}
                for options in self.custom_keys.values()
            )
        ):
            raise InputError(
                "paramwise_cfg must be a dictionary such as dict(custom_keys={PART: "
                f"dict(lr_mult=0.1, decay_mult=0.0)}}), got {paramwise_cfg!r}"
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer and its wrapper for ``model``."""
        wrapper = {"type": "OptimWrapper", **self.optim_wrapper_cfg}
        optimizer = dict(wrapper.pop("optimizer"))
        groups = self._groups(unwrap(model), optimizer)
        parameters = [p for group in groups for p in group["params"]]
        if (
            optimizer["type"] in _FUSED
            and not {"fused", "foreach", "capturable", "differentiable"} & optimizer.keys()
            and FUSES_ON_CPU
            and all(p.device.type in _DEVICES and p.is_floating_point() for p in parameters)
        ):
            optimizer["fused"] = True
        built = OPTIMIZERS.build(dict(optimizer, params=groups))
        return OPTIM_WRAPPERS.build(wrapper, default_args=dict(optimizer=built))

    def _groups(self, model: nn.Module, options: Mapping[str, Any]) -> list[dict]:
        """One group for each pair of factors, with the values that they give."""
        self._check_keys(model)
        groups: dict[tuple[float, float], dict] = {}
        # by name: a norm over all gradients must not depend on the order of tasks
        for name, parameter in sorted(model.named_parameters()):
            if not parameter.requires_grad:
                continue
            keys = [key for key in self.custom_keys if key in name]
            own = self.custom_keys[max(keys, key=len)] if keys else {}
            factors = (own.get("lr_mult", 1.0), own.get("decay_mult", 1.0))
            if factors not in groups:
                groups[factors] = dict(params=[])
                for option, factor in zip(("lr", "weight_decay"), factors, strict=True):
                    if options.get(option) is not None:
                        groups[factors][option] = options[option] * factor
                    elif factor != 1.0:
                        raise InputError(
                            f"paramwise_cfg: a factor of {option} needs the optimizer's {option}"
                        )
            groups[factors]["params"].append(parameter)
        if not groups:
            raise InputError("the model has no trainable parameter")
        return list(groups.values())

    def _check_keys(self, model: nn.Module) -> None:
        """Raise InputError at a key that is in no name; warn of one in names of frozen ones."""
        trainable = [name for name, p in model.named_parameters() if p.requires_grad]
        for key in self.custom_keys:
            if not any(key in name for name, _ in model.named_parameters()):
                raise InputError(
                    f"paramwise_cfg.custom_keys: {key!r} is part of no parameter's name; names are "
                    f"such as {trainable[:1]}"
                )
            if not any(key in name for name in trainable):
                text = f"custom_keys: {key!r} names frozen parameters alone and changes nothing"
                print_log(f"paramwise_cfg.{text}", "current", logging.WARNING)
