"""Several adapters on one frozen encoder, of which one is in use."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from vmt_mm.checkpoints.adapter_file import Adapter, read_adapter
from vmt_mm.checkpoints.frozen import FrozenRecord, fingerprint, frozen_keys, restore_frozen
from vmt_mm.errors import InputError
from vmt_mm.loading.adapters import build_model, config_of
from vmt_mm.loading.model import describe, load_model
from vmt_mm.models.backbones.pretrained import own_state

_ENCODER = "backbone."


class AdapterSwitch:
    """Adapters of different methods and tasks share the frozen encoder's memory.

    The encoder's file is read for the first adapter. Each adapter is a model of its own, whose
    frozen parameters are the same tensors as the others'; so to switch costs nothing, and a model
    predicts, bit for bit, what it would predict alone. The models are for prediction: to train one
    in whose encoder something more is unfrozen would change them all.

    Args:
        pretrained: file of the frozen encoder; None takes the one that the first adapter names.
        device: of all models.

    Attributes:
        models: name -> model in eval mode, with ``cfg`` and ``dataset_meta`` as
            :func:`vmt_mm.loading.adapters.load_adapter` gives them.
        current: name of the adapter in use; None before the first.

    Examples:
        >>> switch = AdapterSwitch()                                  # doctest: +SKIP
        >>> switch.add("rooms", "rooms.safetensors")                  # doctest: +SKIP
        >>> switch.add("streets", "streets.safetensors")              # doctest: +SKIP
        >>> samples = switch.use("rooms")(images, mode="predict")     # doctest: +SKIP
    """

    def __init__(self, pretrained: str | None = None, device: str = "cpu") -> None:
        self.pretrained = pretrained
        self.device = device
        self.models: dict[str, nn.Module] = {}
        self.current: str | None = None
        #: key in the model -> parameter with the value that the encoder's file gives it
        self._pool: dict[str, nn.Parameter] = {}
        self._source: str | None = None

    @property
    def model(self) -> nn.Module:
        """The model in use."""
        if self.current is None:
            raise InputError("no adapter is in use; add one first")
        return self.models[self.current]

    def use(self, name: str) -> nn.Module:
        """Switch to an adapter; return its model.

        Raises:
            InputError: if there is none of this name.
        """
        if name not in self.models:
            raise InputError(f"no adapter {name!r}; there are {list(self.models)}")
        self.current = name
        return self.model

    def add(self, name: str, path: str | Path) -> nn.Module:
        """Put an adapter file on the encoder and switch to it; return its model.

        A name that is there already gets the new file.

        Raises:
            InputError: if the file is missing, damaged or no adapter, or was trained on another
                encoder; what was in use stays in use.
        """
        adapter = read_adapter(path)
        cfg = config_of(adapter.config, str(path))
        model = build_model(cfg, str(path), self.pretrained).to(self.device)
        pool = self._share(model, adapter, str(path))
        load_model(model, adapter.as_checkpoint(), str(path), describe(model, cfg.model))
        model.cfg = cfg
        model.dataset_meta = {task: dict(meta) for task, meta in adapter.dataset_meta.items()}
        self._pool, self._source = pool, self._source or model.backbone.pretrained_path
        self.models[name] = model.eval()
        return self.use(name)

    def remove(self, name: str) -> None:
        """Let go of an adapter that is not in use.

        Raises:
            InputError: if there is none of this name, or it is in use.
        """
        if name not in self.models or name == self.current:
            rest = [other for other in self.models if other != self.current]
            raise InputError(f"no adapter {name!r} that is not in use; there are {rest}")
        del self.models[name]

    def _share(self, model: nn.Module, adapter: Adapter, path: str) -> dict[str, nn.Parameter]:
        """Give a model the encoder's parameters that its adapter lacks; return all that are known.

        What the adapter file holds itself stays the model's own.
        """
        keys = frozen_keys(model) - adapter.tensors.keys()
        record = FrozenRecord.read(dict(frozen_encoder=adapter.frozen), path)
        if not keys:
            return self._pool
        if not self._pool:
            restore_frozen(model, keys, record, path)
            return _pristine(model, keys)
        own = dict(model.named_parameters())
        if any(k not in self._pool or self._pool[k].shape != own[k].shape for k in keys):
            raise InputError(f"{path}: its encoder is not of the architecture that is loaded")
        for key in keys:
            owner, _, leaf = key.rpartition(".")
            model.get_submodule(owner)._parameters[leaf] = self._pool[key]
        if fingerprint(model, keys) != record.sha256:
            raise InputError(
                f"{path} was trained on the frozen encoder of {record.source!r} (SHA-256 "
                f"{record.sha256[:12]}...), and that of {self._source!r} is loaded; use another "
                "AdapterSwitch"
            )
        model.backbone.pretrained_path = self._source
        return self._pool


def _pristine(model: nn.Module, shared: set[str]) -> dict[str, nn.Parameter]:
    """All of the encoder's own parameters as its file has them; those that train are copies."""
    of_file = own_state(model.backbone)
    pool = {}
    for key, parameter in model.named_parameters():
        if key in shared:
            pool[key] = parameter
        elif key.removeprefix(_ENCODER) in of_file and key.startswith(_ENCODER):
            pool[key] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
    return pool
