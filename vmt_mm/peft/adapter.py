"""Adapters beside every MLP, one for all tasks: the parallel adapter, and its low-rank form.

Parallel adapter: He et al., ICLR 2022, https://arxiv.org/abs/2110.04366. Low-rank adapter:
VL-Adapter, CVPR 2022, https://arxiv.org/abs/2112.06825.
"""

from __future__ import annotations

from torch import Tensor, nn

from vmt_mm.peft.bottleneck import Bottleneck, check_positive, hidden_width
from vmt_mm.peft.method import Branch, Encoder, PEFTMethod
from vmt_mm.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
class Adapter(PEFTMethod):
    """x' = y + MLP(LN2(y)) + scale F(y), F a bottleneck with a LayerNorm of its own.

    Args:
        ratio: rho = d / k.
        scale: factor of F.
        norm: LayerNorm before the down-projection.
        down_bias: bias of the down-projection.
        up_bias: bias of the up-projection.

    Raises:
        InputError: if ``ratio`` does not divide a block's channels.
    """

    def __init__(
        self,
        ratio: int = 2,
        scale: float = 1.0,
        norm: bool = True,
        down_bias: bool = True,
        up_bias: bool = True,
    ) -> None:
        super().__init__()
        self.ratio = ratio
        self.scale = scale
        self.options: dict = dict(norm=norm, down_bias=down_bias, up_bias=up_bias)

    def attach(self, encoder: Encoder) -> None:
        """Create one adapter for every block."""
        self.blocks = nn.ModuleList(
            Bottleneck(
                block.channels,
                hidden_width(type(self).__name__, block.channels, self.ratio),
                **self.options,
            )
            for block in encoder.blocks
        )

    def reset_from_pretrained(self, encoder: Encoder) -> None:
        """Start at the frozen encoder's features."""
        for block in self.blocks:
            block.reset()

    def parallel_to_mlp(self, index: int, y: Tensor) -> Branch:
        """The adapter's output joins the stream."""
        features = self.blocks[index](y)
        return Branch(stream=features, gain=self.scale)


@PEFT_METHODS.register_module()
class LowRankAdapter(Adapter):
    """An adapter whose projections are products of two factors, without LayerNorm.

    Args:
        ratio: rho = d / k.
        rank: r of both projections.
        scale: factor of the adapter's output.

    Raises:
        InputError: if ``ratio`` does not divide a block's channels or ``rank`` is not positive.
    """

    def __init__(self, ratio: int = 8, rank: int = 8, scale: float = 1.0) -> None:
        super().__init__(ratio, scale, norm=False)
        check_positive("LowRankAdapter", "rank", rank)
        self.options["rank"] = rank
