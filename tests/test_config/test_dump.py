"""A config that is dumped and loaded again describes the same training."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from vmt_mm.apis import load_config
from vmt_mm.config.dump import OrderedConfig, config_text, read_config_text
from vmt_mm.errors import InputError
from vmt_mm.registry import MODELS
from vmt_mm.tasks import Saliency

ROOT = Path(__file__).parents[2]
CONFIGS = ["configs/vmt/vmt_swin-nano_shapes.py", "configs/vmt/vmt_swin-t_pascal.py"]
#: Not in alphabetical order.
TASKS = dict(
    saliency=dict(type="Saliency"), edge=dict(type="Edge"), floor=dict(type="Segmentation",
    num_classes=2))  # fmt: skip


def reread(text, folder, world_size=None):
    path = Path(folder) / "dumped.py"
    path.write_text(text)
    return Config.fromfile(path) if world_size is None else load_config(path, {}, world_size)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_is_read_again_is_the_same(name, tmp_path):
    cfg = load_config(ROOT / name)
    text = config_text(cfg)
    again = reread(text, tmp_path, world_size=1)
    assert again.to_dict() == cfg.to_dict()
    assert config_text(again) == text == again.pretty_text
    assert read_config_text(text, "text") == reread(text, tmp_path).to_dict()


def test_initial_values_are_those_of_the_config(tmp_path):
    init_default_scope("vmt_mm")
    options = {"tasks": dict(TASKS, _delete_=True), "reference": None}
    cfg = load_config(ROOT / CONFIGS[0], options)
    states = []
    for config in (cfg, reread(cfg.pretty_text, tmp_path, world_size=1)):
        assert list(config.tasks) == list(TASKS)
        torch.manual_seed(0)
        model = MODELS.build(config.model)
        model.init_weights()
        states.append(model.state_dict())
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("processes", [1, 3, 6])
def test_the_total_batch_is_kept_for_any_number_of_processes(tmp_path, processes, explicit):
    options = {"train_dataloader.batch_size": 12} if explicit else {"total_batch_size": 12}
    cfg = load_config(ROOT / CONFIGS[0], options)
    again = reread(config_text(cfg), tmp_path, world_size=processes)
    assert (again.total_batch_size, again.train_dataloader.batch_size) == (12, 12 // processes)


VALUES = dict(
    words='it\'s "quoted"\n{{ fileDirname }} \\',
    pair=(1, 2.5),
    one=(None,),
    nothing=((), [], {}),
    large=float("inf"),
    small=-float("inf"),
    names={"a b": 1, "lambda": 2, 3: "x"},
    keyword={"class": True},
    deep=[dict(a=[dict(b=("x" * 60, "y" * 60))])],
)


def test_values_of_every_kind(tmp_path):
    text = config_text(Config(VALUES))
    assert list(reread(text, tmp_path).to_dict().items()) == list(VALUES.items())
    assert read_config_text(text, "text") == VALUES
    assert math.isnan(read_config_text(config_text(Config(dict(a=float("nan")))), "text")["a"])


def test_values_that_have_a_plain_form(tmp_path):
    values = dict(
        number=np.float64(0.5), count=np.int64(3), path=Path("a/b"),
        task=dict(type=Saliency), layer=dict(type=torch.nn.GELU),
    )  # fmt: skip
    assert reread(config_text(Config(values)), tmp_path).to_dict() == dict(
        number=0.5,
        count=3,
        path=str(Path("a/b")),
        task=dict(type="Saliency"),
        layer=dict(type="torch.nn.modules.activation.GELU"),
    )


@pytest.mark.parametrize("value", [lambda x: x, torch.float16, object(), torch.zeros(2)])
def test_a_value_without_a_text_is_refused(value):
    with pytest.raises(InputError, match=r"config's custom\.entries\[1\]\.key is"):
        config_text(Config(dict(custom=dict(entries=[1, dict(key=value)]))))


def test_all_that_mmengine_writes_keeps_the_order(tmp_path):
    cfg = OrderedConfig(dict(b=1, a=dict(d=1, c=2)))
    cfg.dump(str(tmp_path / "dumped.py"))
    expected = "b = 1\na = {'d': 1, 'c': 2}\n"
    assert (tmp_path / "dumped.py").read_text() == expected == cfg.pretty_text


def test_a_class_that_a_file_imports_is_not_an_entry(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "_base_ = []\nfrom torch.optim import SGD\n"
        "optim_wrapper = dict(optimizer=dict(type=SGD, lr=0.1))\n"
    )
    text = config_text(Config.fromfile(path))
    assert list(read_config_text(text, "text")) == ["optim_wrapper"]
