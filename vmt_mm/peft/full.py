"""The two ends: nothing of the backbone is trained, or all of it."""

from __future__ import annotations

from vmt_mm.peft.method import Backbone, PEFTMethod
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
