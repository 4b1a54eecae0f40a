"""Relative bias, a baseline of Polyhistor: https://arxiv.org/abs/2210.03265."""

from __future__ import annotations

from vmt_mm.peft.method import Backbone, PEFTMethod, layer_names
from vmt_mm.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
class RelativeBias(PEFTMethod):
    """Trains one table of relative positions per block; an InputError if there is none."""

    def attach(self, backbone: Backbone) -> None:
        """Unfreeze the tables."""
        parameters = dict(backbone.named_parameters())
        for name in layer_names("RelativeBias", backbone, "relative_position_table"):
            parameters[name].requires_grad_(True)
