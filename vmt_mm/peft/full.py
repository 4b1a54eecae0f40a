"""The two ends between which PEFT methods lie: nothing or everything of the encoder trains."""

from __future__ import annotations

from vmt_mm.peft.method import Encoder, PEFTMethod
from vmt_mm.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
class DecodersOnly(PEFTMethod):
    """The encoder stays as it was pretrained; only the heads train."""


@PEFT_METHODS.register_module()
class FullFineTuning(PEFTMethod):
    """Every parameter of the encoder trains, its output norms included."""

    def attach(self, encoder: Encoder) -> None:
        """Unfreeze everything."""
        encoder.requires_grad_(True)
