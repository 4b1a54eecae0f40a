"""Take the encoder out of a checkpoint: float16 safetensors, for use as `pretrained`.

python tools/model_converters/export_encoder.py CHECKPOINT OUT.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save

from vmt_mm.apis import friendly_errors
from vmt_mm.models.backbones.pretrained import read_state_dict
from vmt_mm.models.backbones.swin_checkpoint import detect_origin
from vmt_mm.utils.files import write_bytes


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
        # Output norms belong to what the encoder was trained for, a PEFT method to its tasks;
        # index buffers are recomputed.
        state = {
            key: value.to(torch.float16).contiguous()
            for key, value in state.items()
            if value.is_floating_point()
            and not key.startswith(("peft.", "norm"))
            and not key.endswith((".lora_A", ".lora_B"))
        }
        write_bytes(args.out, save(state))
        count = sum(v.numel() for v in state.values())
        print(f"wrote {count:,} parameters, {args.out.stat().st_size:,} bytes: {args.out}")


if __name__ == "__main__":
    main()
