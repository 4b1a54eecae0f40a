"""Methods that only choose which of the backbone's parameters are trained.

BitFit: https://arxiv.org/abs/2106.10199. Relative bias: Polyhistor, https://arxiv.org/abs/2210.03265.
"""

from __future__ import annotations

from vmt_mm.peft.method import Backbone, PEFTMethod, layer_names
from vmt_mm.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
class DecodersOnly(PEFTMethod):
    """The backbone stays as it was pretrained; only the heads are trained."""


@PEFT_METHODS.register_module()
class FullFineTuning(PEFTMethod):
    """Trains every parameter of the backbone, its output norms included."""

    def attach(self, backbone: Backbone) -> None:
        """Unfreeze everything."""
        backbone.requires_grad_(True)


@PEFT_METHODS.register_module()
class BitFit(PEFTMethod):
    """Trains every parameter named ``bias``: tables of relative positions and output norms too."""

    counts_output_norms = True

    def attach(self, backbone: Backbone) -> None:
        """Unfreeze the biases."""
        for name, parameter in backbone.named_parameters():
            if "bias" in name:
                parameter.requires_grad_(True)


@PEFT_METHODS.register_module()
class RelativeBias(PEFTMethod):
    """Trains one table of relative positions per block; an InputError if there is none."""

    def attach(self, backbone: Backbone) -> None:
        """Unfreeze the tables."""
        parameters = dict(backbone.named_parameters())
        for name in layer_names("RelativeBias", backbone, "relative_position_table"):
            parameters[name].requires_grad_(True)
