"""Take the encoder out of a checkpoint: float16 safetensors, for use as `pretrained`.

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

#: Of a plain encoder: a Swin's keys are mmseg's, a ViT's mmpretrain's. What a PEFT method added
#: belongs to its tasks, as a Swin's output norms do; index buffers are recomputed.
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
    parser.add_argument("checkpoint", help="checkpoint that tools/train.py wrote")
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--float32", action="store_true", help="as it is, not rounded to float16")
    return parser.parse_args()


def own_keys(state: Mapping[str, Tensor], checkpoint: str) -> re.Pattern:
    """What the encoder's keys are like.

    Raises:
        InputError: if the checkpoint holds no encoder.
    """
    if "stages.0.blocks.0.attn.w_msa.qkv.weight" in state:
        return _OF_SWIN
    if "layers.0.attn.qkv.weight" in state:
        return _OF_VIT
    record = FrozenRecord.read(read_checkpoint(checkpoint).get("meta"), checkpoint)
    raise InputError(
        f"{checkpoint} holds no encoder"
        + (f": its encoder is that of {record.source!r}, unchanged" if record else "")
    )


def main() -> None:
    """Export."""
    args = parse_args()
    with friendly_errors():
        check_outputs(dict(out=args.out), [args.checkpoint])
        state = read_state_dict(args.checkpoint)
        of_encoder = own_keys(state, args.checkpoint)
        tensors = {
            key: value.to(value.dtype if args.float32 else torch.float16)
            for key, value in state.items()
            if of_encoder.match(key)
        }
        write_tensors(args.out, tensors)
        count = sum(v.numel() for v in tensors.values())
        print(f"wrote {count:,} parameters, {args.out.stat().st_size:,} bytes: {args.out}")
        added = [k for k in state.keys() - tensors.keys() if not _RECOMPUTED.search(k)]
        if added:
            print(f"left out {len(added)} tensors of the PEFT method, such as {min(added)}")


if __name__ == "__main__":
    main()
