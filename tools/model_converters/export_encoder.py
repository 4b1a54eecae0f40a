"""Extract the backbone of a checkpoint to float16 safetensors, for use as `pretrained`.

python tools/model_converters/export_encoder.py CHECKPOINT OUT.safetensors [--float32]
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vmt_mm.checkpoints.files import read_checkpoint
from vmt_mm.checkpoints.frozen import FrozenRecord
from vmt_mm.checkpoints.keys import PEFT
from vmt_mm.checkpoints.tensor_file import write_tensors
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.errors import InputError
from vmt_mm.models.backbones.encoder_in_file import find_encoder
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import check_outputs

#: Left out of the file: a Swin's output norms, and index buffers, which are recomputed.
_LEFT_OUT = re.compile(r"^norm\d\.|relative_position_index$")


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="checkpoint written by tools/train.py")
    parser.add_argument("out", type=Path, help="output file")
    parser.add_argument("--float32", action="store_true", help="do not round to float16")
    return parser.parse_args()


def keys_of_method(state: Mapping[str, Tensor]) -> set[str]:
    """Return the keys that a PEFT method added to the backbone's.

    They start with ``peft.``, or are in a layer that the method wrapped: without it, a layer with a
    ``weight`` has nothing else but a ``bias``.
    """
    layers = {key.removesuffix(".weight") for key in state if key.endswith(".weight")}

    def added(key: str) -> bool:
        parts = key.split(".")
        above = {".".join(parts[:end]) for end in range(1, len(parts))} & layers
        return any(key not in (f"{layer}.weight", f"{layer}.bias") for layer in above)

    return {key for key in state if key.startswith(PEFT) or added(key)}


def read_backbone(checkpoint: str) -> dict[str, Tensor]:
    """Read the tensors of the backbone and its method.

    Raises:
        InputError: if the checkpoint contains no backbone.
    """
    content = read_checkpoint(checkpoint)
    record = FrozenRecord.read(content.get("meta"), checkpoint)
    state = find_encoder(content, checkpoint)
    if record or not any(key.startswith("patch_embed.") for key in state):
        hint = f": it uses the unchanged backbone of {record.source!r}" if record else ""
        raise InputError(f"{checkpoint} contains no backbone{hint}")
    return state


def main() -> None:
    """Export the backbone."""
    args = parse_args()
    with friendly_errors():
        check_outputs(dict(out=args.out), [args.checkpoint])
        state = read_backbone(args.checkpoint)
        added = keys_of_method(state)
        tensors = {
            key: value.to(value.dtype if args.float32 else torch.float16)
            for key, value in state.items()
            if key not in added and not _LEFT_OUT.search(key)
        }
        write_tensors(args.out, tensors)
        count = sum(v.numel() for v in tensors.values())
        print(f"wrote {count:,} parameters, {args.out.stat().st_size:,} bytes: {args.out}")
        if added:
            print(f"skipped {len(added)} tensors of the PEFT method, such as {min(added)}")


if __name__ == "__main__":
    main()
