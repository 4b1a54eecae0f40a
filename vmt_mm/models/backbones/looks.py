"""Say what the weights in a file look like, and which backbone takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

#: Some keys -> what the file is, and the backbone, or model of timm, that takes it; the first fits.
_FAMILIES = (
    (r"\b(cpb_mlp|continuous_position_bias_mlp)\.", "a Swin-V2", ""),
    (r"\b(layers|stages)\.0\.blocks\.0\.att|\bfeatures\.1\.0\.attn\.", "a Swin", "MultiTaskSwin"),
    (r"\bencoder_layer_0\.", "a ViT of torchvision", ""),
    (r"\blayer1\.0\.conv1\.", "a ResNet", ""),
    (r"\b(dwconv|conv_dw|depthwise_conv)\.", "a ConvNeXt", ""),
    (r"\bresblocks\.0\.attn\.|\bpre_layrnorm\.", "a CLIP or PE", "vit_{0}_patch{1}_clip_*"),
    (r"\A(?!.*\bpos).*\b(reg|register|storage)_tokens?\b", "a DINOv3", "vit_{0}_patch{1}_dinov3"),
    (r"\b(reg|register)_tokens?\b", "a DINOv2 with registers", "vit_{0}_patch{1}_reg4_dinov2"),
    (r"\bmlp\.(w1|fc1_g)\.|\battn\.q_bias\b", "an EVA-02", "eva02_{0}_patch{1}_*"),
    (
        r"\A(?!.*\bcl\w+_(token|emb)).*(blocks|\.layers)\.0\.",
        "a SigLIP",
        "vit_{0}_patch{1}_siglip_*",
    ),
    (r"\b(ls1\.gamma|gamma1\.weight|lambda1)\b", "a DINOv2", "vit_{0}_patch{1}_dinov2"),
    (r"\b(blocks|layers?)\.0\.", "a ViT", "vit_{0}_patch{1}_*"),
)
_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}
_PATCH = re.compile(r"(patch_embed\w*(\.proj\w*)?|\bconv1|\bfeatures\.0\.0)\.weight$")
_BLOCK = re.compile(r"\b(?:blocks|resblocks|layers?)\.(?:\d+\.)?(\d+)\.")


def looks_like(state: Mapping[str, Tensor]) -> str:
    """Describe what a file probably is, its sizes, and the backbone that takes it; "" if unknown.

    >>> looks_like(state)
    "a DINOv3 of width 384 with 12 blocks, for MultiTaskTimmViT('vit_small_patch16_dinov3')"
    """
    keys = "\n".join(state)
    found = (family for family in _FAMILIES if re.search(family[0], keys, re.DOTALL))
    _, name, backbone = next(found, ("", "", ""))
    patches = [
        value.shape for key, value in state.items() if _PATCH.search(key) and value.ndim == 4
    ]
    if not patches or not backbone:
        return name and f"{name}, which no backbone of this package takes"
    (width, *_, patch), numbers = patches[0], [int(number) for number in _BLOCK.findall(keys)]
    text = f"{name} of width {width}"
    if backbone != "MultiTaskSwin":
        text += f" with {1 + max(numbers, default=-1)} blocks"
        backbone = backbone.format(_SIZES.get(width, "*"), patch)
        backbone = f"MultiTaskTimmViT(model_name={backbone!r})"
    either = "MultiTaskViT or " if name in ("a DINOv2", "a ViT") else ""
    return f"{text}, for {either}{backbone}"
