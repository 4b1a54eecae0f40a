"""What the tools that import encoders share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmengine.registry import init_default_scope

from vmt_mm.checkpoints.tensor_file import write_tensors
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.errors import InputError
from vmt_mm.models.backbones.converted_weights import Imported
from vmt_mm.models.backbones.pretrained import read_state_dict
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import check_outputs


def import_main(doc: str, convert: Callable[..., Imported]) -> None:
    """Parse the command line, convert, write.

    Args:
        doc: the tool's docstring.
        convert: (tensors, their file, arch) -> what to write.
    """
    parser = ToolParser(description=doc.splitlines()[0])
    parser.add_argument("checkpoint", help="file, or http(s) address, of the pretrained weights")
    parser.add_argument("out", type=Path, help="file to write, .safetensors")
    parser.add_argument("--arch", help="architecture that it must be of; default: what it is")
    args = parser.parse_args()
    with friendly_errors():
        if args.out.suffix != ".safetensors":
            raise InputError(f"{args.out}: the name of the file to write must end in .safetensors")
        check_outputs(dict(out=args.out), [args.checkpoint])
        init_default_scope("vmt_mm")
        imported = convert(read_state_dict(args.checkpoint), args.checkpoint, args.arch)
        write_tensors(args.out, imported.state, dict(format="pt"))
        count = sum(value.numel() for value in imported.state.values())
        print(f"{args.checkpoint}: {imported.origin} keys")
        print(f"wrote {count:,} parameters, {args.out.stat().st_size:,} bytes: {args.out}")
        settings = ", ".join(f"{key}={value!r}" for key, value in imported.config.items())
        print(f"for model.backbone=dict({settings}), pretrained={str(args.out)!r}")
