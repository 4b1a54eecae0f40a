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
from vmt_mm.checkpoints.tensor_file import write_tensors
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.errors import InputError
from vmt_mm.models.backbones.pretrained import read_state_dict
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import check_outputs

#: Keys of a backbone without a PEFT method: mmseg's for Swin, mmpretrain's for ViT. A Swin's output
#: norms are not included; index buffers are recomputed.
_OF_SWIN = re.compile(
    r"^(patch_embed|stages)\.([\w.]+\.)?(weight|bias|relative_position_bias_table)$"
)
_OF_VIT = re.compile(
    r"^(cls_token|pos_embed|(patch_embed|pre_norm|layers|ln1)\.([\w.]+\.)?(weight|bias))$"
)
_RECOMPUTED = re.compile(r"^norm\d\.|relative_position_index$")


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="checkpoint written by tools/train.py")
    parser.add_argument("out", type=Path, help="output file")
    parser.add_argument("--float32", action="store_true", help="do not round to float16")
    return parser.parse_args()


def key_pattern(state: Mapping[str, Tensor], checkpoint: str) -> re.Pattern:
    """The pattern of the backbone's keys.

    Raises:
        InputError: if the checkpoint contains no backbone.
    """
    if "stages.0.blocks.0.attn.w_msa.qkv.weight" in state:
        return _OF_SWIN
    if "layers.0.attn.qkv.weight" in state:
        return _OF_VIT
    record = FrozenRecord.read(read_checkpoint(checkpoint).get("meta"), checkpoint)
    raise InputError(
        f"{checkpoint} contains no backbone"
        + (f": it uses the unchanged backbone of {record.source!r}" if record else "")
    )


def main() -> None:
    """Export the backbone."""
    args = parse_args()
    with friendly_errors():
        check_outputs(dict(out=args.out), [args.checkpoint])
        state = read_state_dict(args.checkpoint)
        pattern = key_pattern(state, args.checkpoint)
        tensors = {
            key: value.to(value.dtype if args.float32 else torch.float16)
            for key, value in state.items()
            if pattern.match(key)
        }
        write_tensors(args.out, tensors)
        count = sum(v.numel() for v in tensors.values())
        print(f"wrote {count:,} parameters, {args.out.stat().st_size:,} bytes: {args.out}")
        added = [k for k in state.keys() - tensors.keys() if not _RECOMPUTED.search(k)]
        if added:
            print(f"skipped {len(added)} tensors of the PEFT method, such as {min(added)}")


if __name__ == "__main__":
    main()
