"""Relative bias, a baseline in the Polyhistor paper: https://arxiv.org/abs/2210.03265."""

from vmt_mm.peft.method import Backbone, PEFTMethod, layer_names
from vmt_mm.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
class RelativeBias(PEFTMethod):
    """Train the relative position bias table of every block; raises InputError if one has none."""

    def attach(self, backbone: Backbone) -> None:
        """Unfreeze the relative position bias tables."""
        parameters = dict(backbone.named_parameters())
        for name in layer_names("RelativeBias", backbone, "relative_position_table"):
            parameters[name].requires_grad_(True)
