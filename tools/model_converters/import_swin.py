"""Convert a pretrained Swin of any supported origin to mmseg's keys, for use as `pretrained`.

python tools/model_converters/import_swin.py CHECKPOINT OUT.safetensors [--arch tiny]
"""

from __future__ import annotations

from vmt_mm.cli.import_encoder import import_main
from vmt_mm.models.backbones.converted_weights import import_swin

if __name__ == "__main__":
    import_main(__doc__, import_swin)
