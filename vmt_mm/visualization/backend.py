"""Where the visualizer's files go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mmengine.visualization
import numpy as np
from mmengine.config import Config
from mmengine.visualization.vis_backend import force_init_env

from vmt_mm.registry import VISBACKENDS
from vmt_mm.utils.files import write_bytes, write_image


@VISBACKENDS.register_module()
class LocalVisBackend(mmengine.visualization.LocalVisBackend):
    """mmengine's ``LocalVisBackend`` that writes pictures and the config whole or not at all."""

    @force_init_env
    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Write the config beside the scalars."""
        write_bytes(Path(self._config_save_file), config.pretty_text.encode())

    @force_init_env
    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Write an RGB image (H, W, 3) as ``<name>_<step>.png``."""
        write_image(Path(self._img_save_dir) / f"{name}_{step}.png", image)
