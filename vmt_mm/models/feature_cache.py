"""Cache of the features of a frozen backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.models.lazy_resize import Map, values_of, with_values
from vmt_mm.peft import PEFTMethod
from vmt_mm.utils.compat import autocast_dtype


class FeatureCache:
    """Cache the four feature maps of each image, up to a ``limit`` in bytes.

    The key is a hash of the input pixels, so random augmentation makes the cache useless. A full
    cache takes no more images: in sequential epochs, LRU would evict the entry needed next.
    Raises InputError if the backbone has trainable parameters or separate features per task.
    """

    def __init__(self, limit: float, backbone: Any) -> None:
        if not isinstance(limit, (int, float)) or limit <= 0:
            raise InputError(f"`feature_cache_bytes` must be a positive number, got {limit!r}")
        peft: PEFTMethod = backbone.peft
        if any(p.requires_grad for p in backbone.parameters()) or not peft.shares_features:
            kind = type(peft).__name__
            raise InputError(
                "`feature_cache_bytes` needs frozen features that all tasks share, as with "
                f"DecodersOnly, but the backbone has {kind}; remove `feature_cache_bytes`"
            )
        self.limit, self.size = limit, 0
        self._kept: dict[bytes, tuple[Map, ...]] = {}
        self._backbone, self._weights = backbone, ()

    def get(
        self, images: Tensor, run: Callable[[Tensor], Mapping[str, Sequence[Map]]]
    ) -> tuple[Map, ...]:
        """Return the four maps of images (B, 3, H, W); ``run`` computes those not in the cache."""
        keys = self._keys(images)
        found = {key: self._kept[key] for key in keys if key in self._kept}
        if missing := [row for row, key in enumerate(keys) if key not in found]:
            levels, *_ = run(images[missing]).values()
            for place, key in enumerate(keys[row] for row in missing):
                values = [values_of(x)[place : place + 1].clone() for x in levels]
                found[key] = tuple(map(with_values, levels, values))
                size = sum(x.nbytes for x in values)
                if key not in self._kept and self.size + size <= self.limit:
                    self._kept[key] = found[key]
                    self.size += size
        rows = zip(*(found[key] for key in keys), strict=True)
        return tuple(with_values(row[0], torch.cat([*map(values_of, row)])) for row in rows)

    def _keys(self, images: Tensor) -> list[bytes]:
        """Return the cache key of each image; clear the cache if weights were loaded or moved."""
        weights = tuple((p.data_ptr(), p._version) for p in self._backbone.parameters())
        if weights != self._weights:
            self._weights, self.size = weights, 0
            self._kept.clear()
        dtype = autocast_dtype(images.device.type)
        state = repr((images.shape[1:], images.dtype, images.device, dtype)).encode()
        pixels = images.detach().cpu().contiguous().view(torch.uint8).numpy()
        return [hashlib.blake2b(state + row.tobytes(), digest_size=16).digest() for row in pixels]
