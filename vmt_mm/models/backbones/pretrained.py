"""Read pretrained weights from a file, and load them strictly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import Tensor

import vmt_mm
from vmt_mm.checkpoints.files import read_checkpoint
from vmt_mm.checkpoints.keys import check_finite, key_faults
from vmt_mm.errors import InputError
from vmt_mm.models.backbones.encoder_in_file import find_encoder
from vmt_mm.models.backbones.package_index import MADE_FILE, SCHEME
from vmt_mm.models.backbones.timm_weights import TIMM_SCHEME, hub_config, read_from_hub

PACKAGE_SCHEME, _ZOO_SCHEME = "vmt_mm://", "mmpretrain://"


def packaged(source: str | Path) -> str | Path:
    """Return the path of the file that ``vmt_mm://NAME`` ships as; other sources unchanged."""
    if not str(source).startswith(PACKAGE_SCHEME):
        return source
    name = str(source).removeprefix(PACKAGE_SCHEME)
    return Path(vmt_mm.__file__).parent / "weights" / f"{name}.safetensors"


def locate(pretrained: str) -> str:
    """Resolve a path, URL, or ``SCHEME://NAME``: vmt_mm (shipped), mmpretrain or timm (zoos)."""
    if pretrained.startswith(TIMM_SCHEME):
        hub_config(pretrained)  # InputError if timm has no such weights
        return pretrained
    if pretrained.startswith(_ZOO_SCHEME):
        return _address_in_zoo(pretrained)
    if pretrained.startswith(("http://", "https://")):
        return pretrained
    path = Path(packaged(pretrained)).expanduser()
    if not path.is_file():
        hint = "set --cfg-options pretrained=<weights file>"
        if path.match(MADE_FILE):
            hint = f"run `make weights` at the root of the repository, which writes it, or {hint}"
        if pretrained.startswith(SCHEME):
            hint = (
                f"write a file: tools/model_converters/import_vit.py {pretrained} FILE.safetensors"
            )
        raise InputError(f"pretrained weights {pretrained!r} do not exist; {hint}")
    return str(path)


def _address_in_zoo(pretrained: str) -> str:
    """Return the URL of weights in mmpretrain's model zoo, from its installed index."""
    try:
        from mmpretrain.apis import ModelHub

        address = ModelHub.get(pretrained.removeprefix(_ZOO_SCHEME)).weights
    except (ImportError, ValueError):
        address = None
    if not address:
        raise InputError(f"pretrained {pretrained!r}: no such weights in the installed mmpretrain")
    return address


def read_state_dict(pretrained: str) -> dict[str, Tensor]:
    """Read a backbone's tensors from a ``.safetensors`` file, a PyTorch checkpoint or a hub."""
    if pretrained.startswith(TIMM_SCHEME):
        return read_from_hub(pretrained)
    location = locate(pretrained)
    return find_encoder(read_checkpoint(location), location)


def load_strictly(
    backbone: Any,
    state: dict[str, Tensor],
    source: str,
    origin: str,
    may_miss: Callable[[str], object] = lambda key: False,
    resize: Callable[[str, Tensor, Tensor], Tensor] = lambda key, value, own: value,
    looks: Callable[[], str] = lambda: "",
) -> None:
    """Load a checkpoint with the backbone's keys; the PEFT method's parameters are unchanged.

    Raises InputError for missing, unexpected or differently sized keys. ``may_miss(key)`` allows a
    missing key; ``resize(key, tensor, own)`` may interpolate a tensor to the shape of ``own``;
    ``looks()`` describes the file in the error.
    """
    added = getattr(backbone, "added_keys", ())
    own = {key: value for key, value in backbone.state_dict().items() if key not in added}
    other = [key for key in state if key in own and state[key].shape != own[key].shape]
    resized = {key: resize(key, state[key], own[key]) for key in other}
    state = {**state, **resized}
    if faults := key_faults(own, state, may_miss):
        faults += [f"the file looks like {found}"] if (found := looks()) else []
        raise InputError(f"{source} does not fit the backbone ({origin} keys): {'; '.join(faults)}")
    check_finite(own, state, source)
    backbone.load_state_dict(state, strict=False)  # differences are checked above
    backbone.resized_keys = frozenset(resized)
    for key in resized:
        print_log(f"{source}: interpolated {key} to the size of the backbone", "current")
    print_log(f"loaded {len(state)} tensors from {source} ({origin} keys)", "current")
