"""The two extremes: train none or all of the backbone."""

from vmt_mm.peft.method import Backbone, PEFTMethod
from vmt_mm.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
class DecodersOnly(PEFTMethod):
    """Keep the backbone frozen and train only the heads."""

    side = True


@PEFT_METHODS.register_module()
class FullFineTuning(PEFTMethod):
    """Train every parameter of the backbone, including its output norms."""

    def attach(self, backbone: Backbone) -> None:
        """Unfreeze the backbone."""
        backbone.requires_grad_(True)
