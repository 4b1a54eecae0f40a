"""The one table of top-level keys that are defaults of components' arguments."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from mmengine.config import Config

from vmt_mm.config.components import TOP_LEVEL, components
from vmt_mm.datasets import MultiTaskDataset, ShapesMT
from vmt_mm.datasets.transforms import Pad, RandomCrop, RandomResize, RandomWarp, Resize
from vmt_mm.errors import InputError
from vmt_mm.evaluation import MultiTaskEvaluator
from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.models.backbones import PEFTBackbone


class Default(NamedTuple):
    """A row: components of class ``kind`` that do not set ``argument`` get the value of ``key``.

    A component that sets one of the arguments ``unless`` gets nothing either.
    """

    key: str
    kind: type
    argument: str
    unless: tuple[str, ...] = ()


DEFAULTS = [
    Default("data_root", MultiTaskDataset, "data_root"),
    Default("render", ShapesMT, "render"),
    Default("tasks", MultiTaskSegmentor, "tasks"),
    Default("tasks", PEFTBackbone, "tasks"),  # reads their names
    Default("tasks", MultiTaskDataset, "tasks"),
    Default("tasks", MultiTaskEvaluator, "tasks"),
    Default("reference", MultiTaskEvaluator, "reference"),
    Default("pretrained", PEFTBackbone, "pretrained"),
    Default("allow_random_backbone", PEFTBackbone, "allow_random_backbone"),
    Default("image_size", RandomWarp, "size"),
    Default("image_size", RandomCrop, "size", ("crop_size",)),
    Default("image_size", RandomResize, "scale"),
    Default("image_size", Resize, "scale", ("scale_factor",)),
    Default("image_size", Pad, "size", ("size_divisor", "pad_to_square")),
    Default("augment_on_device", RandomWarp, "on_device"),
]


def known_keys() -> set[str]:
    """Return the top-level keys that something reads."""
    return TOP_LEVEL | {row.key for row in DEFAULTS}


def fill_defaults(cfg: Config, given: Collection[str] = ()) -> None:
    """Give components the top-level values that they do not set themselves.

    A component's ``tasks`` may be a list of names: it then takes these of the top-level ones.

    Args:
        cfg: the config; changed.
        given: top-level keys that must reach a component, since the user has just set them.

    Raises:
        InputError: if a given key reaches nothing, or a listed name is unknown.
    """
    reached, own = set(), {}
    for path, node, kinds in components({k: cfg[k] for k in cfg if k in TOP_LEVEL}):
        for row in DEFAULTS:
            kind = kinds[0] if kinds else None
            if row.key not in cfg or not (isinstance(kind, type) and issubclass(kind, row.kind)):
                continue
            place = f"{path}.{row.argument}"
            if row.argument in node:
                chosen = _chosen(node[row.argument], cfg[row.key], place)
                node[row.argument] = chosen
                own.setdefault(row.key, place)
            elif not set(row.unless) & set(node):
                node[row.argument] = copy.deepcopy(cfg[row.key])
                reached.add(row.key)
    for key in (row.key for row in DEFAULTS if row.key in given and row.key not in reached):
        hint = f"; set it there, as {own[key]}" if key in own else ""
        raise InputError(
            f"the top-level {key}={cfg[key]!r} reaches nothing: no component takes it without a "
            f"value of its own{hint}"
        )


def _chosen(own: Any, values: Any, place: str) -> Any:
    """Return a component's own value; of a list of names the top-level values."""
    if not isinstance(own, (list, tuple)) or not isinstance(values, Mapping):
        return own
    if unknown := [name for name in own if name not in values]:
        raise InputError(f"{place}: {unknown} is none of the top-level {list(values)}")
    return {name: copy.deepcopy(values[name]) for name in own}
