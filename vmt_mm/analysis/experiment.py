"""Models of config files, without weights and data, for counts and timings."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from vmt_mm.config.load import load_config
from vmt_mm.errors import InputError
from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.registry import MODELS


@dataclass(frozen=True)
class Experiment:
    """A config file with all its tasks; a config with a single ``task`` has a model per task."""

    path: str
    cfg: Config
    model_per_task: bool

    @property
    def name(self) -> str:
        """The file's name without suffix."""
        return Path(self.path).stem

    def build_models(self, tasks: int | None = None) -> list[MultiTaskSegmentor]:
        """Build the models with random weights, for the config's tasks or this number of tasks."""
        model = self._model()
        sources = repeat_tasks(list(model["tasks"]), tasks or len(model["tasks"]))
        parts = [{n: of} for n, of in sources.items()] if self.model_per_task else [sources]
        heads = model.get("task_heads") or {}
        model["test_cfg"] = None  # may name tasks that are left out
        for_part = (
            dict(tasks={name: model["tasks"][of] for name, of in part.items()},
                 backbone=dict(model["backbone"], tasks=list(part)),
                 task_heads={name: heads[of] for name, of in part.items() if of in heads})
            for part in parts
        )  # fmt: skip
        return [MODELS.build(copy.deepcopy({**model, **own})) for own in for_part]

    def build_plain_encoder(self) -> nn.Module:
        """Build the backbone without a PEFT method."""
        model = self._model()
        return MODELS.build({**model["backbone"], "peft": None, "tasks": list(model["tasks"])})

    def _model(self) -> dict[str, Any]:
        init_default_scope(self.cfg.get("default_scope", "vmt_mm"))
        model = copy.deepcopy(self.cfg.get("model") or {})
        if MODELS.get(str(model.get("type"))) is not MultiTaskSegmentor:
            raise InputError(f"{self.path}: `model` must be of type MultiTaskSegmentor")
        if missing := [key for key in ("tasks", "backbone", "head") if not model.get(key)]:
            raise InputError(f"{self.path}: `model` has no `{missing[0]}`")
        model["backbone"].update(pretrained=None, allow_random_backbone=True)
        return model


def load_experiments(
    configs: Sequence[str | Mapping[str, Any]], options: Mapping[str, Any] | None = None
) -> list[Experiment]:
    """Read config files or configs, with ``--cfg-options``; a repeated file counts once."""
    experiments = []
    for source in dict.fromkeys(configs) if isinstance(configs[0], str) else configs:
        cfg = load_config(source, options, training=False)
        model_per_task = cfg.get("task") is not None and "task" not in (options or {})
        if model_per_task:
            cfg = load_config(source, {**(options or {}), "task": None}, training=False)
        path = source if isinstance(source, str) else cfg.filename or "the config"
        experiments.append(Experiment(path, cfg, model_per_task))
    return experiments


def repeat_tasks(names: Sequence[str], count: int) -> dict[str, str]:
    """Map new names to ``names``, repeated in turn: a, b, a_2, b_3, ... -> a, b, a, b, ..."""
    turn = enumerate(islice(cycle(names), count))
    return {name if i < len(names) else f"{name}_{i}": name for i, name in turn}
