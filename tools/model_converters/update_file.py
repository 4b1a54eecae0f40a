"""Update the config of an earlier version, also inside a checkpoint or adapter file.

python tools/model_converters/update_file.py OLD NEW
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from mmengine.config import Config

from vmt_mm.checkpoints.adapter_file import is_adapter_file, read_adapter, write_adapter
from vmt_mm.checkpoints.files import read_checkpoint, to_plain
from vmt_mm.checkpoints.renamed import with_new_names
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.config.dump import config_text, read_config_text
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import atomic_write, check_file_target, check_outputs, write_bytes


def update(old: Path, new: Path) -> None:
    """Write a copy of the file with the new names in its config."""
    check_file_target(new)
    check_outputs(dict(new=new), [old])
    if is_adapter_file(old):
        adapter = read_adapter(old)
        write_adapter(new, replace(adapter, config=with_new_names(adapter.config)))
        return
    if old.suffix == ".py":
        config = read_config_text(old.read_text("utf-8"), str(old))
        write_bytes(new, config_text(Config(with_new_names(config))).encode())
        return
    content = read_checkpoint(str(old))
    config = read_config_text(content["meta"].get("cfg"), f"{old}: its meta.cfg")
    content["meta"]["cfg"] = config_text(Config(with_new_names(config)))
    with atomic_write(new) as partial:
        torch.save(to_plain(content), partial)


if __name__ == "__main__":
    parser = ToolParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "old", type=Path, help="checkpoint, adapter file, or config (.py) of a work dir"
    )
    parser.add_argument("new", type=Path, help="output file, same format")
    args = parser.parse_args()
    with friendly_errors():
        update(args.old, args.new)
