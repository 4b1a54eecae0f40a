"""Relative bias: the attention's tables of relative positions train.

Swin: https://arxiv.org/abs/2103.14030, Eq. 4; as a way to adapt it: Polyhistor,
https://arxiv.org/abs/2210.03265.
"""

from __future__ import annotations

from vmt_mm.peft.method import Encoder, PEFTMethod, layer_names
from vmt_mm.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
class RelativeBias(PEFTMethod):
    """One table of relative positions a block trains.

    Raises:
        InputError: if the encoder has no such tables.
    """

    def attach(self, encoder: Encoder) -> None:
        """Unfreeze the tables."""
        parameters = dict(encoder.named_parameters())
        for name in layer_names("RelativeBias", encoder, "relative_position_table"):
            parameters[name].requires_grad_(True)
