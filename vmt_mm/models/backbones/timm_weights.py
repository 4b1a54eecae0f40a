"""Weights for timm's models: files of other origins, and timm's own hub."""

import re
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.models.backbones.hugging_face import from_hugging_face, is_hugging_face

#: Prefix of the name of weights in timm's hub.
TIMM_SCHEME = "timm://"
#: DINOv2 trains large models with blocks in chunks; each block keeps its global number.
CHUNK = (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.")


def import_timm(what: str) -> Any:
    """Import timm. Raises InputError that says what needs it."""
    try:
        return import_module("timm")
    except ImportError as error:
        hint = "needs timm, install it with `pip install timm`"
        raise InputError(f"{what} {hint}: {error}") from None


def to_timm_keys(
    backbone: Any, state: dict[str, Tensor], source: str, looks: Callable[[], str]
) -> tuple[dict[str, Tensor], str]:
    """Convert a file to the keys of a :class:`MultiTaskTimmViT`; return them and their origin.

    timm's own converter of the model's class renames the original repositories' keys. It does not
    see the model's sizes, so it resizes nothing. ``looks()`` describes the file. Raises InputError
    if it is of another kind, or has other rotary periods or biases of q and v than the model.
    """
    name, _, tag = backbone.model_name.partition(".")
    origin = "timm"
    if is_hugging_face(state):
        state, origin = from_hugging_face(state), "Hugging Face"
    state = {re.sub(*CHUNK, key): value for key, value in state.items()}
    patches = state.get("patch_embed.proj.weight", state.get("conv1.weight"))
    if patches is None or patches.ndim != 4:  # SigLIP 2 NaFlex has a matrix
        problem = "is not a file of a plain ViT with a patch convolution"
        raise InputError(f"{source} {problem}; it looks like {looks() or 'no known backbone'}")
    own, rope = backbone.state_dict(), getattr(backbone.rope, "periods", torch.ones(1))
    # timm has the values that the original repository rounded to bfloat16
    if not torch.allclose(state.get("rope_embed.periods", rope).to(rope), rope, rtol=2**-8):
        problem = f"other rotary periods than {backbone.model_name!r}"
        raise InputError(f"{source} has {problem}; set rope_temperature in model_kwargs")
    if "conv1.weight" in state:  # CLIP and PE, as timm expects them
        state = {f"visual.{key}": value for key, value in state.items()}
    elif not backbone.timm_module.endswith(".eva"):
        if {"register_tokens", "blocks.0.mlp.w12.weight"} & state.keys():
            state.setdefault("mask_token", torch.zeros(1))  # by which timm knows DINOv2
    elif "norm.weight" in own:
        state.pop("mask_token", None)  # else, timm takes EVA-02's final norm for that of a pool
    sizes = SimpleNamespace(proj=SimpleNamespace(weight=patches))
    model = SimpleNamespace(patch_embed=sizes, pos_embed=None, get_parameter=lambda key: None)
    converted = import_module(backbone.timm_module).checkpoint_filter_fn(dict(state), model)
    if origin == "timm" and state.keys() - converted.keys() - {"mask_token"}:
        origin = "the original repository's"
    unknown = converted.keys() - own.keys() - backbone.left_out
    biases = sorted(key for key in unknown if re.search(r"\.attn\.[qv]_bias$", key))
    if biases and "dinov3" in name:
        if any(converted[key].any() for key in biases):
            other = f"model_name={f'{name}_qkvb.{tag}'.strip('.')!r}"
            raise InputError(f"{source} has biases of q and v: {name!r} has none, set {other}")
        converted = {key: value for key, value in converted.items() if key not in biases}
    if backbone.takes_fc_norm and "norm.weight" in own.keys() - converted.keys():
        converted = {re.sub("^fc_norm", "norm", key): value for key, value in converted.items()}
    return converted, origin


def hub_config(pretrained: str) -> Any:
    """Return timm's config of ``timm://NAME``. Raises InputError if it has no such weights."""
    timm, name = import_timm(f"pretrained {pretrained!r}"), pretrained.removeprefix(TIMM_SCHEME)
    if not timm.models.is_model_pretrained(name):
        hint = "timm.list_pretrained() has their names"
        raise InputError(f"pretrained {pretrained!r}: timm has no such weights; {hint}")
    return timm.get_pretrained_cfg(name)


def read_from_hub(pretrained: str) -> dict[str, Tensor]:
    """Download ``timm://NAME`` by timm's own code, or read it from the cache of an earlier time."""
    config, hub = hub_config(pretrained), import_module("huggingface_hub")
    constants: Any = hub.constants
    address = f"{constants.ENDPOINT}/{config.hf_hub_id}" if config.hf_hub_id else config.url
    offline, name = constants.HF_HUB_OFFLINE, pretrained.removeprefix(TIMM_SCHEME)
    try:
        constants.HF_HUB_OFFLINE = offline or not _answers(address)  # else, it tries for a minute
        return import_module("timm").create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # of several libraries
        reason = str(error).partition("\n")[0] or type(error).__name__
        hint = f"download the weights from {address} and set pretrained=<file>"
        raise InputError(f"pretrained {pretrained!r} cannot be loaded ({reason}); {hint}") from None
    finally:
        constants.HF_HUB_OFFLINE = offline


def _answers(address: str) -> bool:
    """Whether the server of an address answers within 5 seconds."""
    try:
        urlopen(address, timeout=5).close()
    except OSError as error:
        return isinstance(error, HTTPError)
    return True
