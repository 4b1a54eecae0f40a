"""Decoded files of a dataset: one .safetensors file per sample, which all processes share.

Values are kept as the files hold them, so that samples are the same as without a cache, bit for
bit. A sample is written when it is first read, and again when a source file has another size or
time. A file that cannot be used is not kept: reading it says what is wrong, each time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vmt_mm.datasets.transforms.load import IMAGE, LoadImageFromFile
from vmt_mm.errors import InputError
from vmt_mm.tasks import LabelSpec
from vmt_mm.utils.files import atomic_write, check_folder_target


class SampleCache:
    """The decoded files of samples in a folder, which several datasets may share."""

    def __init__(
        self, folder: Path, root: Path, specs: Mapping[str, LabelSpec], reader: LoadImageFromFile
    ) -> None:
        check_folder_target(folder, "cache")
        kinds = [[task, *spec.identity] for task, spec in specs.items()]
        content = json.dumps([str(root.absolute()), kinds, reader.settings])
        self.folder = folder / hashlib.sha256(content.encode()).hexdigest()[:12]
        self.specs, self.reader = specs, reader

    def __getitem__(self, sample: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The image under ``IMAGE``, and labels by task; InputError if it cannot be written."""
        path = self.folder / f"{sample['sample_id']}.safetensors"
        files = {IMAGE: sample["img_path"], **sample["label_paths"]}
        state = json.dumps({name: _state(path) for name, path in files.items()})
        with suppress(OSError, SafetensorError), safe_open(path, "np") as stored:
            names = stored.keys()
            if stored.metadata() == {"state": state}:
                return {name: stored.get_tensor(name) for name in names}
        arrays, specs = {}, self.specs.items()
        read = {name: spec.read if spec.keeps_file_values else spec.decode for name, spec in specs}
        for name, file in files.items():
            with suppress(InputError):
                arrays[name] = np.ascontiguousarray(read.get(name, self.reader.read)(file))
        try:
            with atomic_write(path) as partial:
                save_file(arrays, partial, {"state": state})
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{path}: the cache cannot be written ({error}); give the dataset's `cache` a "
                "folder that can be written to and has room, or None for no cache"
            ) from error
        return arrays


def _state(path: str) -> list[int] | None:
    """What changes when a file does: size in bytes, time in nanoseconds."""
    try:
        state = os.stat(path)
    except OSError:  # reading it will say so
        return None
    return [state.st_size, state.st_mtime_ns]
