"""Adapter files: export the trained part of a checkpoint, and load it onto the frozen backbone."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

import vmt_mm
from vmt_mm.checkpoints.adapter_file import Adapter, read_adapter, write_adapter
from vmt_mm.checkpoints.files import LAST_VALIDATION, VALIDATED, to_plain
from vmt_mm.checkpoints.frozen import FrozenRecord, fingerprint, frozen_keys, keys_left_out
from vmt_mm.checkpoints.keys import is_recomputed
from vmt_mm.checkpoints.renamed import refuse_old_names
from vmt_mm.config.components import check_types
from vmt_mm.config.dump import config_text, plain_config
from vmt_mm.config.load import load_config
from vmt_mm.config.tree import files_read
from vmt_mm.errors import InputError
from vmt_mm.loading.model import build_model, describe, load_file, load_model
from vmt_mm.models.backbones.pretrained import packaged
from vmt_mm.utils.files import atomic_write, check_file_target, check_outputs

#: Keys of a config that are specific to one run.
_OF_RUN = ("work_dir", "load_from", "resume", "launcher", "experiment_name")
_OTHER = "{} was trained on a different frozen backbone ({!r}); use a separate AdapterSwitch"


def load_adapter(
    path: str | Path,
    pretrained: str | None = None,
    device: Any = "cpu",
    frozen: Mapping[str, Any] | None = None,
) -> Any:
    """Build the model of an adapter file and load adapter and frozen backbone into it.

    >>> model = load_adapter("vmt.safetensors", pretrained="swin_tiny.pth")

    ``path`` may be ``vmt_mm://NAME``, a file that ships with the package.
    ``pretrained`` is the backbone's file, by default the one that the adapter names; parameters
    ``frozen``, by key, replace it. Import the modules of your own classes first. Returns the model
    in eval mode, with ``cfg`` and ``dataset_meta``. Raises InputError if the backbone differs.
    """
    path = packaged(path)
    adapter = read_adapter(path)
    refuse_old_names(adapter.config, str(path))
    check_types(adapter.config, str(path))
    cfg = Config(dict(adapter.config))
    model = build_model(cfg, str(path), pretrained).to(device)
    needed = frozen_keys(model) - adapter.tensors.keys()
    content = adapter.as_checkpoint()
    record = FrozenRecord.read(content["meta"], str(path))
    if frozen and record and needed and needed <= frozen.keys():
        _share(model, {key: frozen[key] for key in needed})
        if fingerprint(model, needed) != record.sha256:
            raise InputError(_OTHER.format(path, record.source))
        model.backbone.pretrained_path = record.source
    load_model(model, content, str(path), describe(model, cfg.model))
    model.cfg, model.dataset_meta = cfg, {k: dict(v) for k, v in adapter.dataset_meta.items()}
    return model.eval()


def _share(model: Any, parameters: Mapping[str, Any]) -> None:
    """Replace the model's parameters of these keys."""
    for key, value in parameters.items():
        owner, _, leaf = key.rpartition(".")
        setattr(model.get_submodule(owner), leaf, value)


class AdapterSwitch:
    """Several adapters, of any methods and tasks, that share one frozen backbone in memory.

    ``models`` maps names to separate models with shared frozen parameters, so switching is free.
    Use them for prediction, not for training::

        switch = AdapterSwitch("swin_tiny.pth")
        switch.add("indoor", "nyud.safetensors")
        model = switch.use("indoor")
    """

    def __init__(self, pretrained: str | None = None, device: str = "cpu") -> None:
        self.pretrained, self.device = pretrained, device
        self.models: dict[str, Any] = {}
        self._frozen: dict[str, Any] = {}

    def use(self, name: str) -> Any:
        """Return the model with the adapter of that name."""
        if name not in self.models:
            raise InputError(f"no adapter {name!r}; there are {list(self.models)}")
        return self.models[name]

    def add(self, name: str, path: str | Path) -> Any:
        """Load an adapter file; return its model, or raise InputError if its backbone differs."""
        model = load_adapter(path, self.pretrained, self.device, self._frozen)
        own = {key: model.get_parameter(key) for key in keys_left_out(model)}
        if any(not torch.equal(self._frozen.get(key, own[key]), own[key]) for key in own):
            raise InputError(_OTHER.format(path, model.backbone.pretrained_path))
        self._frozen = {**own, **self._frozen}
        _share(model, {key: self._frozen[key] for key in own})
        self.models[name] = model
        return model


def export_adapter(
    cfg: Config,
    checkpoint: str | Path,
    out: Path,
    half: bool = False,
    notes: Mapping[str, str] | None = None,
) -> Adapter:
    """Write the trained part of a checkpoint to one ``.safetensors`` file, and return it.

    The file also contains the backbone if that in the checkpoint differs from ``pretrained``.
    ``half`` rounds parameters to float16; running statistics keep their type. ``notes`` are texts
    to store by name, such as the licence.
    """
    cfg = load_config(cfg, training=False)
    check_out(out, ".safetensors", [checkpoint, *files_read(cfg)])
    model = build_model(cfg, cfg.filename or "the config")
    content = load_file(model, cfg, checkpoint)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    left_out = _left_out(model, state)
    frozen = FrozenRecord.of(model, left_out)
    config = {key: value for key, value in plain_config(cfg).items() if key not in _OF_RUN}
    if frozen.source:
        config["model"]["backbone"]["pretrained"] = config["pretrained"] = frozen.source
    if half:
        state = {**state, **_rounded({k: state[k] for k, _ in model.named_parameters()})}
    meta = content.get("meta") or {}
    known = {task: (meta.get("dataset_meta") or {}).get(task) or {} for task in model.tasks}
    adapter = Adapter(
        tensors={k: v for k, v in state.items() if k not in left_out and not is_recomputed(k)},
        config=config,
        description=describe(model, cfg.model),
        frozen=vars(frozen),
        dataset_meta={
            task: {key: names[key] for key in ("classes", "palette") if key in names}
            for task, names in known.items()
        },
        metrics=_metrics(content, Path(checkpoint)),
        version=vmt_mm.__version__,
        notes=notes or {},
    )
    write_adapter(out, adapter)
    return adapter


def merge_adapter(path: str | Path, out: Path, pretrained: str | None = None) -> Any:
    """Write an adapter and its backbone to one ``.pth`` checkpoint; return the model."""
    model = load_adapter(path, pretrained)
    check_out(out, ".pth", [path, model.backbone.pretrained_path])
    meta = dict(vmt_mm=describe(model, model.cfg.model), cfg=config_text(model.cfg))
    meta.update(dataset_meta=model.dataset_meta, notes=dict(read_adapter(packaged(path)).notes))
    with atomic_write(out) as partial:
        torch.save(dict(meta=to_plain(meta), state_dict=model.state_dict()), partial)
    return model


def check_out(out: Path, suffix: str, read: Iterable[Any]) -> None:
    """Raise InputError if ``out`` has another suffix, cannot be written, or is among files read."""
    if out.suffix != suffix:
        raise InputError(f"{out}: the output file must end with {suffix}")
    check_file_target(out)
    check_outputs(dict(out=out), read)


def _left_out(model: Any, state: Mapping[str, torch.Tensor]) -> set[str]:
    """Keys that the pretrained file supplies; none if its weights differ from ``state``."""
    backbone = model.backbone
    if backbone.pretrained_path is None and backbone.pretrained:  # the checkpoint held them
        backbone.load_pretrained()
        loaded = model.state_dict()
        if any(not torch.equal(state[key], loaded[key]) for key in keys_left_out(model)):
            backbone.pretrained_path = None
    return keys_left_out(model)


def _rounded(parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Round parameters to float16; raise InputError on overflow."""
    half = {key: value.half() for key, value in parameters.items()}
    for key, value in half.items():
        if not torch.equal(value.isfinite(), parameters[key].isfinite()):
            raise InputError(f"{key} has values beyond float16's range; export without --half")
    return half


def _metrics(checkpoint: Mapping[str, Any], path: Path) -> dict[str, float] | None:
    """Validation metrics of exactly these weights, from the checkpoint or a file next to it."""
    notes = [checkpoint.get("message_hub", {}).get("runtime_info", {}).get(VALIDATED)]
    if (stored := path.parent / LAST_VALIDATION).is_file():
        notes.append(json.loads(stored.read_text()))
    iteration = checkpoint.get("meta", {}).get("iter", -1)
    return next((n["metrics"] for n in notes if n and n["iter"] == iteration), None)
