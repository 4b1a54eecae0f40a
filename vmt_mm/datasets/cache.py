"""On-disk cache of decoded files: one .safetensors file per sample, shared by all processes.

The cache stores values as in the files, so samples are bitwise equal with and without it. A sample
is written on first use, and again if the size or modification time of a source file changes.
Invalid files are not cached: each access reads them again and raises the same error.
"""

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
    """Cache of a dataset's decoded files below ``folder``, which several datasets may share."""

    def __init__(
        self, folder: Path, root: Path, specs: Mapping[str, LabelSpec], reader: LoadImageFromFile
    ) -> None:
        check_folder_target(folder, "cache")
        kinds = [[task, *spec.identity] for task, spec in specs.items()]
        content = json.dumps([str(root.absolute()), kinds, reader.settings])
        self.folder = folder / hashlib.sha256(content.encode()).hexdigest()[:12]
        self.specs, self.reader = specs, reader

    def __getitem__(self, sample: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return image (key ``IMAGE``) and labels per task; raise InputError if writing fails."""
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
                f"{path}: the cache cannot be written ({error}); set the dataset's `cache` to a "
                "writable folder with enough space, or to None for no cache"
            ) from error
        return arrays


def _state(path: str) -> list[int] | None:
    """Size in bytes and modification time in nanoseconds, to detect changes of a file."""
    try:
        state = os.stat(path)
    except OSError:  # reading the file raises the error
        return None
    return [state.st_size, state.st_mtime_ns]
