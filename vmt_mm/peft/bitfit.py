"""BitFit: train only the biases, https://arxiv.org/abs/2106.10199."""

from vmt_mm.peft.method import Backbone, PEFTMethod
from vmt_mm.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
class BitFit(PEFTMethod):
    """Train all parameters with ``bias`` in their name, including relative position bias tables."""

    counts_output_norms = True

    def attach(self, backbone: Backbone) -> None:
        """Unfreeze the biases of the backbone."""
        for name, parameter in backbone.named_parameters():
            if "bias" in name:
                parameter.requires_grad_(True)
