"""BitFit: the biases train.

BitFit: Ben Zaken et al., ACL 2022, https://arxiv.org/abs/2106.10199.
"""

from __future__ import annotations

from vmt_mm.peft.method import Encoder, PEFTMethod
from vmt_mm.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
class BitFit(PEFTMethod):
    """Every parameter whose name has ``bias`` trains: tables of relative positions included.

    The biases of the output norms are among them, and count as the encoder's.
    """

    counts_output_norms = True

    def attach(self, encoder: Encoder) -> None:
        """Unfreeze the biases."""
        for name, parameter in encoder.named_parameters():
            if "bias" in name:
                parameter.requires_grad_(True)
