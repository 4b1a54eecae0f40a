"""Take the encoder out of a checkpoint: float16 safetensors, for use as `pretrained`.

python tools/model_converters/export_encoder.py CHECKPOINT OUT.safetensors
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
from safetensors.torch import save

from vmt_mm.apis import friendly_errors
from vmt_mm.models.backbones.pretrained import read_state_dict
from vmt_mm.models.backbones.swin_checkpoint import detect_origin
from vmt_mm.utils.files import write_bytes

#: Of a plain encoder. What a PEFT method added belongs to its tasks, as output norms do; index
#: buffers are recomputed.
_OF_ENCODER = re.compile(
    r"^(patch_embed|stages)\.([\w.]+\.)?(weight|bias|relative_position_bias_table)$"
)
_RECOMPUTED = re.compile(r"^norm\d\.|relative_position_index$")


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="checkpoint that tools/train.py wrote")
    parser.add_argument("out", type=Path, help="file to write")
    return parser.parse_args()


def main() -> None:
    """Export."""
    args = parse_args()
    with friendly_errors():
        state = read_state_dict(args.checkpoint)
        detect_origin(state, args.checkpoint)
        of_encoder = {
            key: value.to(torch.float16).contiguous()
            for key, value in state.items()
            if _OF_ENCODER.match(key)
        }
        write_bytes(args.out, save(of_encoder))
        count = sum(v.numel() for v in of_encoder.values())
        print(f"wrote {count:,} parameters, {args.out.stat().st_size:,} bytes: {args.out}")
        added = [k for k in state.keys() - of_encoder.keys() if not _RECOMPUTED.search(k)]
        if added:
            print(f"left out {len(added)} tensors of the PEFT method, such as {min(added)}")


if __name__ == "__main__":
    main()
