"""Test-time augmentation of a config, like mmseg's ``--tta``."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config

from vmt_mm.config.load import load_config
from vmt_mm.config.tree import dicts_in
from vmt_mm.errors import InputError

#: Factors of the test pipeline's image size.
SCALES = (0.75, 1.0, 1.25)


def apply_tta(cfg: Config) -> None:
    """Change a config, in place, to test with augmentation.

    >>> apply_tta(cfg := load_config("config.py"))

    The model is wrapped in ``tta_model``, by default ``MultiTaskTTAModel``. Test datasets get
    ``tta_pipeline``, by default the test pipeline at 0.75, 1 and 1.25 times its size, each with and
    without a horizontal flip.
    """
    loaded = load_config(cfg, training=False)
    for entry in dicts_in((loaded.get("test_dataloader") or {}).get("dataset")):
        if "pipeline" in entry:
            entry["pipeline"] = cfg.get("tta_pipeline") or make_pipeline(entry["pipeline"])
    cfg.test_dataloader = loaded.get("test_dataloader")
    cfg.model = dict(cfg.get("tta_model") or dict(type="MultiTaskTTAModel"), module=loaded.model)


def make_pipeline(
    steps: Sequence[Mapping[str, Any]], scales: Sequence[float] = SCALES
) -> list[dict[str, Any]]:
    """Augment a test pipeline by flips and by factors ``scales`` of its ``Resize(scale=)``."""
    steps = [copy.deepcopy(dict(step)) for step in steps]
    kinds = [step.get("type") for step in steps]
    resize = steps[kinds.index("Resize")] if "Resize" in kinds else {}
    scale = resize.get("scale")
    if not isinstance(scale, Sequence) or "LoadLabels" in kinds[: kinds.index("Resize")]:
        raise InputError(
            f"--tta needs a test pipeline with Resize(scale=...) and then LoadLabels, got {kinds}; "
            "set `tta_pipeline` in the config"
        )
    position = kinds.index("Resize")
    sizes = [[max(1, round(factor * side)) for side in scale] for factor in scales]
    versions = [
        [dict(resize, scale=tuple(size)) for size in sizes],
        [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)],
        *([step] for step in steps[position + 1 :]),
    ]
    return [*steps[:position], dict(type="TestTimeAug", transforms=versions)]
