"""The one table of top-level keys that are defaults of components' arguments."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import NamedTuple

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
    """Give components the top-level values that they do not set themselves, in place.

    A component's ``tasks`` may be a list of names: it then takes these of the top-level ones.

    Raises:
        InputError: if one of the keys ``given`` reaches nothing, or a listed name is unknown.
    """
    filled, own = set(), {}
    for path, node, kinds in components({k: cfg[k] for k in cfg if k in TOP_LEVEL}):
        kind = kinds[0] if kinds and isinstance(kinds[0], type) else object
        for row in (row for row in DEFAULTS if row.key in cfg and issubclass(kind, row.kind)):
            value, values, place = node.get(row.argument), cfg[row.key], f"{path}.{row.argument}"
            if row.argument not in node and not set(row.unless) & set(node):
                node[row.argument] = copy.deepcopy(values)
                filled.add(row.key)
            elif isinstance(value, (list, tuple)) and isinstance(values, Mapping):
                if unknown := [name for name in value if name not in values]:
                    raise InputError(f"{place}: {unknown} is none of the top-level {list(values)}")
                node[row.argument] = {name: copy.deepcopy(values[name]) for name in value}
            own.setdefault(row.key, place)
    for key in (row.key for row in DEFAULTS if row.key in given and row.key not in filled):
        raise InputError(
            f"the top-level {key}={cfg[key]!r} reaches nothing: no component takes it without a "
            f"value of its own; set it there, as {own.get(key, 'model...')}"
        )
