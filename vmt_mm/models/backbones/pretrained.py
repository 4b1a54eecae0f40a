"""Read files of pretrained weights, and load them strictly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmengine.logging import print_log
from torch import Tensor, nn

import vmt_mm
from vmt_mm.checkpoints.files import read_checkpoint
from vmt_mm.checkpoints.keys import check_finite, key_faults
from vmt_mm.errors import InputError
from vmt_mm.models.backbones.encoder_in_file import find_encoder

_PACKAGE_SCHEME, _ZOO_SCHEME = "vmt_mm://", "mmpretrain://"


def locate(pretrained: str) -> str:
    """Turn ``pretrained`` into a path or a URL.

    Args:
        pretrained: a path, an ``http(s)://`` address, ``vmt_mm://NAME`` for weights that ship
            with the package, or ``mmpretrain://NAME`` for a model of mmpretrain's zoo, by its name
            there.

    Raises:
        InputError: if a path or a name does not exist; the message gives it.
    """
    if pretrained.startswith(_ZOO_SCHEME):
        return _address_in_zoo(pretrained)
    if pretrained.startswith(("http://", "https://")):
        return pretrained
    path = Path(pretrained).expanduser()
    if pretrained.startswith(_PACKAGE_SCHEME):
        name = pretrained.removeprefix(_PACKAGE_SCHEME)
        path = Path(vmt_mm.__file__).parent / "weights" / f"{name}.safetensors"
    if not path.is_file():
        raise InputError(
            f"pretrained weights {pretrained!r} do not exist: expected a checkpoint file of the "
            "encoder there; set it with --cfg-options pretrained=FILE"
        )
    return str(path)


def _address_in_zoo(pretrained: str) -> str:
    """Address of a zoo model's weights, from the list that is installed with mmpretrain."""
    try:
        from mmpretrain.apis import ModelHub
    except ImportError as error:
        raise InputError(f"pretrained {pretrained!r} needs mmpretrain: {error}") from None
    name = pretrained.removeprefix(_ZOO_SCHEME)
    try:
        address = ModelHub.get(name).weights
    except ValueError:
        raise InputError(
            f"pretrained {pretrained!r}: mmpretrain's zoo has no model of this name; "
            "`mmpretrain.list_models()` gives them"
        ) from None
    if not address:
        raise InputError(f"pretrained {pretrained!r}: mmpretrain's zoo has no weights of it")
    return address


def read_state_dict(pretrained: str) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` file or of a PyTorch checkpoint.

    Of what else a training keeps beside its encoder nothing is read, see
    :func:`vmt_mm.models.backbones.encoder_in_file.find_encoder`.

    Raises:
        InputError: if the file is missing, damaged, or holds no tensors.
    """
    location = locate(pretrained)
    return find_encoder(read_checkpoint(location), location)


def own_state(encoder: nn.Module) -> dict[str, Tensor]:
    """The state dict of an encoder without what its PEFT method added."""
    added = getattr(encoder, "added_keys", ())
    return {key: value for key, value in encoder.state_dict().items() if key not in added}


def load_strictly(
    encoder: nn.Module,
    state: dict[str, Tensor],
    source: str,
    origin: str,
    may_miss: Callable[[str], object] = lambda key: False,
) -> None:
    """Load a checkpoint that has the encoder's keys; what a PEFT method added is left alone.

    Args:
        encoder: where to.
        state: the tensors.
        source: name of their file, for messages.
        origin: who wrote the file, for messages.
        may_miss: whether a key of the encoder may be absent.

    Raises:
        InputError: if a key is missing, unknown, or of another shape, or a tensor holds NaN or
            infinity; the message gives them.
    """
    faults = key_faults(own_state(encoder), state, may_miss)
    if faults:
        raise InputError(f"{source} does not fit the encoder ({origin} keys): {'; '.join(faults)}")
    check_finite(encoder.state_dict(), state, source)
    encoder.load_state_dict(state, strict=False)  # every difference was judged above
    print_log(f"loaded {len(state)} tensors of {source} ({origin} keys)", logger="current")
