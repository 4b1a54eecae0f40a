"""Parallel adapters shared by all tasks, with full-rank or low-rank projections."""

from typing import Any

from torch import Tensor, nn

from vmt_mm.peft.bottleneck import Bottleneck, check_factor, check_positive, hidden_width
from vmt_mm.peft.method import Backbone, PEFTMethod, SideOutput, TokenGrid
from vmt_mm.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
class Adapter(PEFTMethod):
    """Parallel adapter (He et al., ICLR 2022): a bottleneck in parallel to the MLP of every block.

    x' = y + MLP(LN2(y)) + scale F(y), F(y) = ReLU(LN(y) W_down) W_up. All tasks share F, which
    starts at 0. https://arxiv.org/abs/2110.04366

    Args:
        ratio: reduction ratio rho = d / k; must divide the channels d of every block.
        scale: scaling factor of F.
        norm: use a LayerNorm before W_down.
        down_bias: use a bias in W_down.
        up_bias: use a bias in W_up.
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
        check_factor(self, scale=scale)
        self.ratio, self.scale = ratio, scale
        self.options: dict[str, Any] = dict(norm=norm, down_bias=down_bias, up_bias=up_bias)

    def attach(self, backbone: Backbone) -> None:
        """Create one bottleneck per block."""
        self.blocks = nn.ModuleList()
        for block in backbone.block_specs:
            hidden = hidden_width(self, block.channels, self.ratio)
            self.blocks.append(self.make_bottleneck(block.channels, hidden))

    def make_bottleneck(self, channels: int, hidden: int) -> nn.Module:
        """Build F(y) = ReLU(LN(y) W_down) W_up of one block."""
        return Bottleneck(channels, hidden, **self.options)

    def reset_from_pretrained(self, backbone: Backbone) -> None:
        """Initialise to F = 0, so that training starts with the features of the frozen backbone."""
        for block in self.blocks:
            block.reset()

    def parallel_to_mlp(self, index: int, y: Tensor, grid: TokenGrid) -> SideOutput:
        """Add ``scale F(y)`` to the residual stream."""
        return SideOutput(residual=self.blocks[index](y), scale=self.scale)


@PEFT_METHODS.register_module()
class LowRankAdapter(Adapter):
    """Adapter without LayerNorm whose projections are products of two factors of rank r.

    W_down and W_up are factored as in VL-Adapter, CVPR 2022, https://arxiv.org/abs/2112.06825.
    """

    def __init__(self, ratio: int = 8, rank: int = 8, scale: float = 1.0) -> None:
        super().__init__(ratio, scale, norm=False)
        check_positive(self, rank=rank)
        self.options["rank"] = rank
