"""Maps of a frozen backbone, kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from mmengine.logging import print_log
from torch import Tensor

from vmt_mm.checkpoints.tensor_file import tensors_sha256
from vmt_mm.errors import InputError
from vmt_mm.peft import PEFTMethod
from vmt_mm.utils.compat import autocast_dtype
from vmt_mm.utils.feature_maps import SimpleMap, tensors_of, with_values
from vmt_mm.utils.files import DISK_FULL, check_folder_target

_KEY_BYTES = 16
#: Arguments of a backbone that do not change its frozen maps; the weights have a fingerprint.
_IRRELEVANT = {"allow_random_backbone", "batch_tasks", "peft", "pretrained", "tasks", "with_cp"}
#: Hooks by which a method changes the maps, or adds channels to them.
_HOOKS = ("after_attn", "after_mlp", "after_residual", "parallel_to_mlp", "task_features")


def build_feature_cache(
    cfg: Mapping[str, Any] | None, backbone: Any, arguments: Mapping[str, Any]
) -> FeatureCache | None:
    """Build the :class:`FeatureCache` of config ``cfg``; None means no cache."""
    if cfg is None:
        return None
    if not isinstance(cfg, Mapping) or cfg.keys() - {"folder", "limit"}:
        rule = "must be a dict of `folder` and `limit`, or None for no cache"
        raise InputError(f"model.feature_cache {rule}; got {cfg!r}")
    return FeatureCache(backbone, arguments, **cfg)


class FeatureCache:
    """Keep the frozen maps of each image in float16, in memory-mapped files.

    The key of an image is a hash of its pixels in the batch, so another file, size, pipeline or
    augmentation makes another image. Below ``folder`` is a folder per backbone, weights and image
    size, see :class:`_Store`. A full cache, or a full disk, takes no more images: in sequential
    epochs, LRU would evict the one needed next.

    Args:
        backbone: the backbone. Raises InputError unless its method is a side method.
        arguments: the backbone's config.
        folder: folder of the files; several models and processes may share it.
        limit: size limit of the files of one backbone and image size, in bytes.
    """

    def __init__(
        self,
        backbone: Any,
        arguments: Mapping[str, Any],
        folder: str = "work_dirs/features",
        limit: float = 8e9,
    ) -> None:
        if type(limit) not in (int, float) or not 0 < limit < inf:
            raise InputError(f"feature_cache: `limit` must be a positive number, got {limit!r}")
        if not isinstance(folder, (str, Path)) or not str(folder):
            raise InputError(f"feature_cache: `folder` must be a path, got {folder!r}")
        if not backbone.peft.side:
            kind = type(backbone.peft).__name__
            raise InputError(
                "`feature_cache` needs a method that sends no gradient into the backbone, such as "
                f"DecodersOnly or SideVMT, but the backbone has {kind}; remove `feature_cache`"
            )
        check_folder_target(Path(folder), "feature_cache.folder")
        self.folder, self.limit, self._backbone = Path(folder), limit, backbone
        relevant = {key: arguments[key] for key in arguments.keys() - _IRRELEVANT}
        own = type(backbone.peft)
        if any(getattr(own, hook) is not getattr(PEFTMethod, hook) for hook in _HOOKS):
            relevant["peft"] = arguments["peft"]
        self._about = json.dumps(relevant, sort_keys=True, default=repr)
        self._weights: tuple[Any, ...] = ()
        self._stores: dict[str, _Store] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the maps out of copies and pickles."""
        return self.__dict__ | dict(_weights=(), _stores={})

    def get(
        self, images: Tensor, run: Callable[[Tensor], Sequence[SimpleMap]]
    ) -> tuple[SimpleMap, ...]:
        """Return the four maps of images (B, 3, H, W), rounded to float16.

        ``run`` computes the maps of images that are not in the cache.
        """
        pixels = images.detach().cpu().contiguous().view(torch.uint8).numpy()
        keys = [hashlib.blake2b(x.tobytes(), digest_size=_KEY_BYTES).digest() for x in pixels]
        store = self._store(images, run)
        rows = {key: row for row, key in enumerate(keys) if key not in store.rows}
        new = store.pack(run(images[[*rows.values()]])) if rows else ()
        values = dict(zip(rows, new, strict=True))
        store.add(values)
        found = [values[key] if key in values else store.read(key) for key in keys]
        return store.unpack(torch.from_numpy(np.stack(found)).to(images.device))

    def _store(self, images: Tensor, run: Callable[[Tensor], Sequence[SimpleMap]]) -> _Store:
        """Return the files for the backbone as it is and images of this size."""
        state = self._backbone.state_dict()
        state = {key: x for key, x in state.items() if key not in self._backbone.added_keys}
        weights = tuple((x.data_ptr(), x._version) for x in state.values())
        if weights != self._weights:
            self._weights, self._stores = weights, {}
            self._sha256 = tensors_sha256(state)
        kind = images.device.type
        how = [*images.shape[1:], str(images.dtype), kind, str(autocast_dtype(kind))]
        content = json.dumps([self._about, self._sha256, how])
        name = hashlib.sha256(content.encode()).hexdigest()[:12]
        if name not in self._stores:
            self._stores[name] = _Store(self.folder / name, run(images[:1]), self.limit)
        return self._stores[name]


class _Store:
    """Two files: ``maps`` has a float16 record per image, its maps (h, w, C) one after the other.

    ``keys`` has the images' keys in the same order. A record is written before its key, and under a
    lock, so a process that is killed leaves no broken record, and several may add records.

    Args:
        folder: folder of the files.
        levels: maps of any image, as an example of their kind and size.
        limit: size limit in bytes.
    """

    def __init__(self, folder: Path, levels: Sequence[SimpleMap], limit: float) -> None:
        self.folder, self._levels = folder, levels
        self._shapes = [tuple(x.shape[1:]) for level in levels for x in tensors_of(level)]
        self._sizes = [c * h * w for c, h, w in self._shapes]
        self._bytes = 2 * sum(self._sizes)
        self._room = int(limit // (self._bytes + _KEY_BYTES))
        self.rows: dict[bytes, int] = {}
        self._load()
        free = shutil.disk_usage(next(x for x in folder.absolute().parents if x.exists())).free
        text = f"feature cache {folder}: {len(self.rows)} images, {self._bytes / 1e6:.2f} MB each, "
        text += f"at most {self._room} ({limit / 1e9:.3g} GB; {free / 1e9:.3g} GB free)"
        print_log(text, "current")

    def pack(self, levels: Sequence[SimpleMap]) -> np.ndarray:
        """Turn the maps of images into records (B, values)."""
        full = [x.permute(0, 2, 3, 1).flatten(1) for m in levels for x in tensors_of(m)]
        half = [x.half() for x in full]
        if any((y.isinf() & x.isfinite()).any() for x, y in zip(full, half, strict=True)):
            problem = "the backbone's maps are above 65504, the limit of float16"
            raise InputError(f"feature_cache: {problem}; remove `feature_cache`")
        return np.concatenate([x.cpu().numpy() for x in half], 1)

    def unpack(self, records: Tensor) -> tuple[SimpleMap, ...]:
        """Turn records (B, values) into maps."""
        levels = []
        parts = zip(self._levels, self._shapes, records.split(self._sizes, 1), strict=True)
        for level, (c, h, w), own in parts:
            values = own.view(-1, h, w, c).permute(0, 3, 1, 2).to(tensors_of(level)[0].dtype)
            levels.append(with_values(level, values))
        return tuple(levels)

    def read(self, key: bytes) -> np.ndarray:
        """Return the record of an image that is in ``rows``."""
        return self._records[self.rows[key]]

    def add(self, records: Mapping[bytes, np.ndarray]) -> None:
        """Write the records of images, as many as the limit allows."""
        if not records or len(self.rows) >= self._room:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock"):
                self._load()  # what other processes have added
                new = [key for key in records if key not in self.rows]
                start, new = len(self.rows), new[: self._room - len(self.rows)]
                _write(self.folder / "maps", start * self._bytes, [records[key] for key in new])
                _write(self.folder / "keys", start * _KEY_BYTES, new)
                self._load()
        except OSError as error:
            if error.errno not in DISK_FULL:
                problem = f"feature_cache: {self.folder} cannot be written: {error}"
                raise InputError(f"{problem}; set another `folder`") from None
            self._room = 0
            text = f"the disk of the feature cache {self.folder} is full; no more images are added"
            print_log(text, "current", logging.WARNING)

    def _load(self) -> None:
        """Read the keys that are new, and map the records."""
        path, known = self.folder / "keys", len(self.rows)
        count = path.stat().st_size // _KEY_BYTES if path.exists() else 0
        if count == known:
            return
        try:
            with path.open("rb") as file:
                file.seek(known * _KEY_BYTES)
                new = file.read((count - known) * _KEY_BYTES)
            cut = range(0, len(new), _KEY_BYTES)
            self.rows.update((new[at : at + _KEY_BYTES], known + n) for n, at in enumerate(cut))
            if len(self.rows) != count:
                raise ValueError("a key occurs twice")
            shape = (count, self._bytes // 2)
            self._records = np.memmap(self.folder / "maps", np.float16, "r", shape=shape)
        except (OSError, ValueError) as error:
            problem = f"{self.folder} is damaged, or was changed while in use: {error}"
            raise InputError(f"feature_cache: {problem}; delete the folder") from None


def _write(path: Path, offset: int, chunks: Sequence[Any]) -> None:
    """Write chunks from ``offset`` on, over what a killed process may have left there."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(offset)
        for chunk in chunks:
            file.write(chunk)
