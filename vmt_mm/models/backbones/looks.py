"""Say what the weights in a file look like, and which backbone takes them."""

import re
from collections.abc import Mapping
from importlib import import_module

from torch import Tensor

#: Some keys -> what the file is, and what takes it: a class, timm's models of a name, "" for none,
#: or "?" if keys and sizes do not say which; the first fits.
_FAMILIES = (
    (r"\b(cpb_mlp|continuous_position_bias_mlp|meta_mlp)\.", "a Swin-V2", ""),
    (r"\b(layers|stages)\.0\.blocks\.0\.att|\bfeatures\.1\.0\.attn\.", "a Swin", "MultiTaskSwin"),
    (r"\bencoder_layer_0\.", "a ViT of torchvision", ""),
    (r"\blayer1\.0\.conv1\.", "a ResNet", ""),
    (r"\bstages\.0\.(\w+\.)?0\.(dwconv|conv_dw|depthwise_conv)\.", "a ConvNeXt", ""),
    (r"\bresblocks\.0\.attn\.|\bpre_layrnorm\.|\bnorm_pre\.", "a CLIP or PE", "?"),
    (r"\A(?!.*\bpos)(?=.*\bcls_).*\b(reg\w*|storage)_tok", "a DINOv3", "vit_{0}_patch{1}_dinov3"),
    (r"\A(?=.*\bcls_).*\breg\w*_tok", "a DINOv2 with registers", "vit_{0}_patch{1}_reg4_dinov2"),
    (r"\.(w1|fc1_g)\.|\A(?!.*(gamma_|relat)).*\bq_bias", "an EVA", "eva02_{0}_patch{1}_*"),
    (r"\A(?!.*(\bcl\w+_|reg_)).*(attn_pool|\.probe)", "a SigLIP", "vit_{0}_patch{1}_siglip_*"),
    (r"\b(ls1|gamma1|lambda1)\b", "a ViT with LayerScale", "vit_{0}_patch{1}_dinov2"),
    (r"\A(?!.*(_bias|gamma_|rope))(?=.*\bcls_).*\.0\.att", "a ViT", "vit_{0}_patch{1}_224"),
)
_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}
_PATCH = re.compile(r"(patch_embed\w*(\.proj\w*)?|\bconv1|\bfeatures\.0\.0)\.weight$")
_BLOCK = re.compile(r"\b(?:blocks|resblocks|layers?)\.(?:\d+\.)?(\d+)\.")


def family(state: Mapping[str, Tensor]) -> tuple[str, str]:
    """Return what a file probably is, and what takes it, as in the table; "" if unknown."""
    keys = "\n".join(state)
    found = (entry[1:] for entry in _FAMILIES if re.search(entry[0], keys, re.DOTALL))
    return next(found, ("", ""))


def looks_like(state: Mapping[str, Tensor], refused: str = "") -> str:
    """Describe what a file probably is, its sizes, and the backbone that takes it; "" if unknown.

    Names only models of the installed timm, not ``refused``, the class or model that was tried.

    >>> looks_like(state)
    "a DINOv3 of width 384 with 12 blocks, for MultiTaskTimmViT(model_name='vit_small_...')"
    """
    (name, backbone), keys = family(state), "\n".join(state)
    patches = [v.shape for key, v in state.items() if _PATCH.search(key) and v.ndim == 4]
    if not patches or not backbone:
        return name and f"{name}, which no backbone of this package takes"
    width, *_, patch = patches[0]
    text = f"{name} of width {width}"
    if backbone == "MultiTaskSwin":
        return text + f", for {backbone}" * (refused != backbone)
    text += f" with {1 + max(map(int, _BLOCK.findall(keys)), default=-1)} blocks"
    gated = name == "a DINOv3" and re.search(r"\.(w1|fc1_g|gate_proj)\.", keys)
    pattern = backbone.format(_SIZES.get(width, "?") + "_plus" * bool(gated), patch)
    try:
        models = [] if "?" in pattern else import_module("timm").list_models(pattern)
    except ImportError:
        return text
    if not models or refused.partition(".")[0] in models:
        return text
    either = "MultiTaskViT or " * (name.startswith("a ViT") and refused != "MultiTaskViT")
    return f"{text}, for {either}MultiTaskTimmViT(model_name={pattern!r})"
