"""Bottlenecks with full, low-rank or Kronecker projections; equations of the VMT-Adapter paper.

Notation: B images, L tokens, d channels of a block, k = d / ratio, r rank, m Kronecker terms.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import kaiming_uniform_, normal_, zeros_

from vmt_mm.errors import InputError


def hidden_width(method: nn.Module, channels: int, ratio: int) -> int:
    """Return the bottleneck width k = d / ratio. Raises InputError if k is not an integer."""
    if type(ratio) is not int or ratio < 1 or channels % ratio:
        raise InputError(
            f"{type(method).__name__}: `ratio` must be a positive integer that divides the "
            f"channels of every block, got {ratio!r} for a block of {channels} channels"
        )
    return channels // ratio


def check_positive(method: nn.Module, **settings: int) -> None:
    """Raise InputError unless these settings of the method are positive integers."""
    for name, value in settings.items():
        if type(value) is not int or value < 1:
            raise InputError(
                f"{type(method).__name__}: `{name}` must be a positive integer, got {value!r}"
            )


def check_factor(method: nn.Module, **settings: float) -> None:
    """Raise InputError if one of these factors is 0: what it scales would not be trained."""
    for name, value in settings.items():
        if value == 0:
            raise InputError(
                f"{type(method).__name__}: `{name}` must not be 0; nothing would train"
            )


def check_dropout(method: nn.Module, dropout: float) -> None:
    """Raise InputError unless the probability of dropout is in [0, 1)."""
    if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        kind = type(method).__name__
        raise InputError(f"{kind}: `dropout` must be in [0, 1), got {dropout!r}")


class LowRankLinear(nn.Module):
    """Linear layer with a weight B A of rank r, x A^T B^T + b: A is (r, in), B is (out, r)."""

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.empty(rank, in_features))
        self.outer = nn.Parameter(torch.empty(out_features, rank))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(F.linear(x, self.inner), self.outer, self.bias)


class Bottleneck(nn.Module):
    """F(y) = ReLU(LN(y) W_down) W_up (Eq. 3); with ``rank``, both projections are low-rank."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        norm: bool = True,
        down_bias: bool = True,
        up_bias: bool = True,
        rank: int | None = None,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()
        self.down = _projection(channels, hidden, down_bias, rank)
        self.up = _projection(hidden, channels, up_bias, rank)

    def reset(self) -> None:
        """Initialise to F = 0, with gradients for every parameter from the second step on."""
        if isinstance(self.norm, nn.LayerNorm):
            self.norm.reset_parameters()
        for layer in (self.down, self.up):
            *inner, last = (p for p in layer.parameters() if p.ndim == 2)
            for factor in inner:
                kaiming_uniform_(factor, nonlinearity="linear")
            zeros_(last) if layer is self.up else kaiming_uniform_(last, nonlinearity="relu")
            if layer.bias is not None:
                zeros_(layer.bias)

    def forward(self, y: Tensor) -> Tensor:
        """Compute F(y), (B, L, d) -> (B, L, d)."""
        return self.up(self.down(self.norm(y)).relu())


def _projection(inputs: int, outputs: int, bias: bool, rank: int | None) -> Any:
    if rank is None:
        return nn.Linear(inputs, outputs, bias=bias)
    return LowRankLinear(inputs, outputs, rank, bias)


def kronecker_sum(left: Tensor, right: Tensor) -> Tensor:
    """Return W = sum_i A_i (x) B_i (Eqs. 2, 6), (a p, b q), from A (m, a, b) and B (m, p, q)."""
    return torch.einsum("iab,ipq->apbq", left, right).flatten(2).flatten(0, 1)


class KroneckerBottleneck(nn.Module):
    """F(y) = ReLU(y W_down) W_up with projections that are sums of Kronecker products (Eq. 6).

    W_down = sum_i A_i (x) B_down,i and W_up = sum_i A_i (x) B_up,i share the A_i,
    (m, m, m) together. ``terms``, m, must divide ``channels``, d, and ``hidden``, k.
    """

    def __init__(
        self, channels: int, hidden: int, terms: int, down_bias: bool, up_bias: bool
    ) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.empty(terms, terms, terms))
        self.down = nn.Parameter(torch.empty(terms, channels // terms, hidden // terms))
        self.up = nn.Parameter(torch.empty(terms, hidden // terms, channels // terms))
        self.down_bias = nn.Parameter(torch.empty(hidden)) if down_bias else None
        self.up_bias = nn.Parameter(torch.empty(channels)) if up_bias else None

    def reset(self) -> None:
        """Initialise to F = 0: W_up is 0, and W_down has variance 2 / d (He initialisation)."""
        terms, per_term, _ = self.down.shape
        normal_(self.shared, std=terms**-0.5)
        normal_(self.down, std=(2 / (terms * per_term)) ** 0.5)  # W_down sums m products
        for zero in (self.up, self.down_bias, self.up_bias):
            if zero is not None:
                zeros_(zero)

    def forward(self, y: Tensor) -> Tensor:
        """Compute F(y), (B, L, d) -> (B, L, d)."""
        # F.linear takes the transpose of W in y W; building W is cheap compared with y W
        hidden = F.linear(y, kronecker_sum(self.shared, self.down).T, self.down_bias).relu()
        return F.linear(hidden, kronecker_sum(self.shared, self.up).T, self.up_bias)
