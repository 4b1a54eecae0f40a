"""What the tools are made of, for use from Python."""

from vmt_mm.apis.cli import friendly_errors
from vmt_mm.apis.config import check_inputs, load_config
from vmt_mm.apis.launch import distributed

__all__ = ["check_inputs", "distributed", "friendly_errors", "load_config"]
