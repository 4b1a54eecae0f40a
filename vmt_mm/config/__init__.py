"""Configs: load them, fill in top-level defaults, and check them before anything is built."""

import vmt_mm.registry  # noqa: F401  first, since it imports mmseg without its notices
from vmt_mm.config.inputs import check_inputs
from vmt_mm.config.load import load_config

__all__ = ["check_inputs", "load_config"]
