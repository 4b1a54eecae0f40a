"""The table of top-level defaults: a component needs nothing but a row."""

import pytest
from mmcv.transforms import BaseTransform

from vmt_mm.config import defaults, load_config
from vmt_mm.config.dump import config_text
from vmt_mm.errors import InputError
from vmt_mm.registry import TRANSFORMS


@pytest.fixture
def toy(monkeypatch):
    """A user's transform and its row."""

    @TRANSFORMS.register_module(force=True)
    class Toy(BaseTransform):
        def __init__(self, strength: int, other: int = 0) -> None:
            """Keep nothing."""

        def transform(self, results: dict) -> dict:
            """Change nothing."""
            return results

    row = defaults.Default("toy_strength", Toy, "strength", ("other",))
    monkeypatch.setattr(defaults, "DEFAULTS", [*defaults.DEFAULTS, row])
    yield
    TRANSFORMS.module_dict.pop("Toy")


def _config(*steps):
    dataset = dict(type="MultiTaskDataset", pipeline=[dict(type="Toy", **step) for step in steps])
    return dict(toy_strength=3, test_dataloader=dict(dataset=dataset))


def test_a_row_is_all_that_a_component_needs(toy, tmp_path):
    cfg = load_config(_config({}, dict(strength=5), dict(other=1)))
    steps = cfg.test_dataloader.dataset.pipeline
    assert [step.get("strength") for step in steps] == [3, 5, None]
    (tmp_path / "dump.py").write_text(config_text(cfg))
    again = load_config(tmp_path / "dump.py", dict(toy_strength=4))
    steps = again.test_dataloader.dataset.pipeline
    assert [step.get("strength") for step in steps] == [4, 5, None]


def test_an_option_without_effect_is_refused(toy):
    with pytest.raises(InputError, match=r"toy_strength=4 has no effect.*pipeline\[0\].strength"):
        load_config(_config(dict(strength=5)), dict(toy_strength=4))
    with pytest.raises(InputError, match="did you mean 'toy_strength'"):
        load_config(_config({}), dict(toy_strenght=4))


def test_a_dataset_names_tasks_of_the_top_level():
    tasks = dict(floor=dict(type="Segmentation", num_classes=2), depth=dict(type="Depth"))
    named = dict(type="MultiTaskDataset", data_root="a", tasks=["depth"])
    cfg = dict(tasks=tasks, test_dataloader=dict(dataset=named))
    assert load_config(cfg).test_dataloader.dataset.tasks == dict(depth=tasks["depth"])
    named["tasks"] = ["dept"]
    with pytest.raises(InputError, match=r"dataset.tasks: unknown \['dept'\]; the top level has"):
        load_config(cfg)


def test_a_mapping_in_place_of_a_number_is_kept():
    own = dict(semseg=dict(mIoU=60.0))
    cfg = dict(
        tasks=dict(semseg=dict(type="Segmentation", num_classes=2), saliency=dict(type="Saliency")),
        reference=dict(semseg=60.0, saliency=50.0),
        test_evaluator=dict(type="MultiTaskEvaluator", reference=own),
    )
    assert load_config(cfg).test_evaluator.reference == own
