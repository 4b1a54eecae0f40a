"""Features of an encoder in which nothing trains, kept for the images that come again.

Letters: B images, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.models.lazy_resize import Map, values_of, with_values
from vmt_mm.peft import PEFTMethod
from vmt_mm.utils.compat import autocast_dtype


class FeatureCache:
    """Keeps the four maps of each image, known by its pixels, until a limit is reached.

    What augmentation changes is another image; so features are never those of something else, and
    nothing comes again where every epoch draws anew. What is kept first stays: in epochs, what was
    used least recently is what comes next.

    Args:
        limit: bytes, on the encoder's device.
        encoder: whose features these are.

    Raises:
        InputError: if something of the encoder trains, or tasks have features of their own.
    """

    def __init__(self, limit: float, encoder: nn.Module) -> None:
        if not isinstance(limit, (int, float)) or limit <= 0:
            raise InputError(f"`feature_cache_bytes` must be bytes, more than 0, got {limit!r}")
        shared = type(encoder.peft).task_features is PEFTMethod.task_features
        if any(p.requires_grad for p in encoder.parameters()) or not shared:
            raise InputError(
                "`feature_cache_bytes` is for training heads alone on features that never change, "
                f"as with DecodersOnly; {type(encoder.peft).__name__} adapts the encoder"
            )
        self.limit, self.size = limit, 0
        self._kept: dict[bytes, tuple[Map, ...]] = {}
        self._encoder, self._weights = encoder, ()

    def of(self, images: Tensor, run: Callable[[Tensor], Sequence[Map]]) -> tuple[Map, ...]:
        """The four maps of images (B, 3, H, W); ``run`` gives those of images not kept."""
        keys = self._keys(images)
        missing = [row for row, key in enumerate(keys) if key not in self._kept]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        if missing:
            levels = run(images[missing])
            for place, row in enumerate(missing):
                maps = tuple(_row(level, place) for level in levels)
                found[keys[row]] = maps
                self._keep(keys[row], maps)
            if len(missing) == len(keys):
                return tuple(levels)
        return tuple(map(_stack, zip(*(found[key] for key in keys), strict=True)))

    def _keys(self, images: Tensor) -> list[bytes]:
        """What features depend on. If weights were loaded or moved, nothing that was kept is."""
        weights = tuple((p.data_ptr(), p._version) for p in self._encoder.parameters())
        if weights != self._weights:
            self._weights, self.size = weights, 0
            self._kept.clear()
        state = (
            images.shape[1:],
            images.dtype,
            images.device,
            autocast_dtype(images.device.type),
        )
        salt = hashlib.blake2b(repr(state).encode(), digest_size=16).digest()
        pixels = images.detach().cpu().contiguous().view(torch.uint8).numpy()
        return [hashlib.blake2b(row, digest_size=16, salt=salt).digest() for row in pixels]

    def _keep(self, key: bytes, maps: tuple[Map, ...]) -> None:
        size = sum(values_of(x).nbytes for x in maps)
        if key not in self._kept and self.size + size <= self.limit:
            self._kept[key] = tuple(with_values(x, values_of(x).clone()) for x in maps)
            self.size += size


def _row(x: Map, index: int) -> Map:
    return with_values(x, values_of(x)[index : index + 1])


def _stack(rows: Sequence[Map]) -> Map:
    return with_values(rows[0], torch.cat([values_of(x) for x in rows]))
