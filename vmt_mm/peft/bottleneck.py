"""Bottlenecks and the projections that they are made of: full, low-rank, Kronecker.

Letters: B images, L tokens, d channels of a block, k = d / ratio, r rank, m Kronecker terms.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import kaiming_uniform_, normal_, zeros_

from vmt_mm.errors import InputError


def hidden_width(method: nn.Module, channels: int, ratio: int) -> int:
    """Width of the bottleneck, k = d / ratio; an InputError if ``ratio`` does not divide d."""
    if type(ratio) is not int or ratio < 1 or channels % ratio:
        raise InputError(
            f"{type(method).__name__}: `ratio` must be positive and divide every block's channels, "
            f"got ratio {ratio!r} for {channels} channels"
        )
    return channels // ratio


def check_positive(method: nn.Module, **settings: int) -> None:
    """Raise InputError unless the method's settings are positive whole numbers."""
    for name, value in settings.items():
        if type(value) is not int or value < 1:
            raise InputError(
                f"{type(method).__name__}: `{name}` must be a positive whole number, got {value!r}"
            )


class LowRankLinear(nn.Module):
    """x A^T B^T + b, of rank r: A (r, in), B (out, r). https://arxiv.org/abs/2112.06825."""

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.empty(rank, in_features))
        self.outer = nn.Parameter(torch.empty(out_features, rank))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(F.linear(x, self.inner), self.outer, self.bias)


class Bottleneck(nn.Module):
    """F = ReLU(LN(y) W_down) W_up (Eq. 3; Eq. 1 without its residual); a ``rank`` factors both."""

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
        """Start at F = 0, with gradients that reach everything from the second step on."""
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
        """F, (B, L, d)."""
        return self.up(self.down(self.norm(y)).relu())


def _projection(inputs: int, outputs: int, bias: bool, rank: int | None) -> Any:
    if rank is None:
        return nn.Linear(inputs, outputs, bias=bias)
    return LowRankLinear(inputs, outputs, rank, bias)


def kronecker_sum(left: Tensor, right: Tensor) -> Tensor:
    """W = sum_i A_i (x) B_i (Eqs. 2, 6), (a p, b q), of A (m, a, b) and B (m, p, q)."""
    return torch.einsum("iab,ipq->apbq", left, right).flatten(2).flatten(0, 1)


class KroneckerBottleneck(nn.Module):
    """F = ReLU(y W_down) W_up, both projections sums of Kronecker products (Eq. 6).

    W_down = sum_i A_i (x) B_down,i and W_up = sum_i A_i (x) B_up,i share the A_i (m, m, m); m, the
    number of ``terms``, divides d and k.
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
        """Start at F = 0; W_down has the variance of a ReLU layer's weights, 2 / d."""
        terms, per_term, _ = self.down.shape
        normal_(self.shared, std=terms**-0.5)
        normal_(self.down, std=(2 / (terms * per_term)) ** 0.5)  # W_down sums m products
        for zero in (self.up, self.down_bias, self.up_bias):
            if zero is not None:
                zeros_(zero)

    def forward(self, y: Tensor) -> Tensor:
        """F, (B, L, d)."""
        # W maps rows (y W), F.linear takes its transpose; building W is cheap compared with y W
        hidden = F.linear(y, kronecker_sum(self.shared, self.down).T, self.down_bias).relu()
        return F.linear(hidden, kronecker_sum(self.shared, self.up).T, self.up_bias)
