"""Unpickling runs code from the file, so nothing here unpickles arbitrary objects."""

import ast
import copy
import os
import re
from collections import OrderedDict
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub, history_buffer
from run_hooks import At, Killed, kill
from small_runs import ONE_STEP

from vmt_mm.checkpoints.files import from_plain, newest_checkpoint, read_checkpoint, to_plain
from vmt_mm.errors import InputError
from vmt_mm.models.backbones.pretrained import read_state_dict
from vmt_mm.utils import compat

ROOT = Path(__file__).parents[2]
reads_mmengines_types = pytest.mark.skipif(
    not compat.LISTS_TYPES, reason="PyTorch before 2.6 refuses mmengine's own checkpoints"
)


class Reduced:
    """Pickles as a function call and, optionally, the state to set on its result."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def system(marker):
    return Reduced(os.system, (f"touch {marker}",))


def file_opener(marker):
    return Reduced(open, (str(marker), "w"))


def evaluation(marker):
    return Reduced(eval, (f"open({str(marker)!r}, 'w').close()",))


def getattr_chain(marker):
    """``eval`` is reached by ``getattr`` only, and called as the method that restores a log."""
    builtins = Reduced(getattr, (getattr, "__self__"))
    log = Reduced(HistoryBuffer, ([], []), {"__setstate__": Reduced(getattr, (builtins, "eval"))})
    holder = Reduced(HistoryBuffer, ([], []), {"log": log})
    return Reduced(getattr, (holder, "log"), f"open({str(marker)!r}, 'w').close()")


def globals_change(marker):
    """A module's variable is set through ``__globals__`` of one of its functions."""
    variables = (Reduced(getattr, (HistoryBuffer, "mean")), "__globals__")
    return Reduced(getattr, variables, None, None, iter([(str(marker), 1)]))


ATTACKS = (system, file_opener, evaluation, getattr_chain, globals_change)


@pytest.fixture
def marker(tmp_path):
    """A file that the code in the pickles creates."""
    return tmp_path / "it-ran"


@pytest.fixture(scope="module")
def short(full_run):
    """A training's checkpoint with few weights, would overwrite the input quickly."""
    content = read_checkpoint(str(full_run.folder / "epoch_1.pth"))
    weights = dict(list(content["state_dict"].items())[:3])
    return {**content, "state_dict": weights, "optimizer": {}}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", ["weights", "meta", "log"])
def test_no_code_of_a_file_runs(short, tmp_path, marker, attack, place):
    content = copy.deepcopy(short)
    entry = dict(weights="state_dict", meta="meta", log="message_hub")[place]
    content[entry]["attack"] = attack(marker)
    path = tmp_path / "attack.pth"
    torch.save(content, path)
    # what is hidden in mmengine's log types may be dropped instead
    ignored = attack in (getattr_chain, globals_change)
    refused = partial(suppress, InputError) if ignored else partial(pytest.raises, InputError)
    for read in (read_checkpoint, read_state_dict, lambda _: newest_checkpoint(tmp_path)):
        with refused():
            read(str(path))
    assert not marker.exists()
    assert str(marker) not in vars(history_buffer)


@pytest.mark.parametrize(
    "options",
    [
        {"resume": True, "load_from": "PATH"},
        {"resume": True},
        {"load_from": "PATH"},
        {"model.backbone.pretrained": "PATH"},
    ],
)
def test_no_code_runs_however_a_file_is_given(small_run, tmp_path, marker, options):
    path = tmp_path / "run" / "epoch_1.pth"
    path.parent.mkdir()
    state = {"patch_embed.projection.weight": torch.zeros(1), "attack": system(marker)}
    torch.save(dict(state_dict=state, optimizer={}, meta=dict(iter=1)), path)
    options = {key: str(path) if value == "PATH" else value for key, value in options.items()}
    run = small_run(options)
    with pytest.raises(InputError, match="epoch_1.pth"):
        run.train()
    assert run.losses == {}
    assert not marker.exists()


def test_a_config_in_a_checkpoint_is_not_run(small_run, full_run, tmp_path, marker):
    # mmengine's `resume` builds a config from this text, and configs are Python code.
    content = read_checkpoint(str(full_run.folder / "epoch_1.pth"))
    content["meta"]["config"] = f"open({str(marker)!r}, 'w').close()\n"
    torch.save(to_plain(content), tmp_path / "attack.pth")
    options = {"resume": True, "load_from": str(tmp_path / "attack.pth")}
    with pytest.raises((Killed, InputError)):
        small_run(options, At("before_train_iter", None, kill)).train()
    assert not marker.exists()


def test_a_checkpoint_cannot_have_files_removed(small_run, full_run, tmp_path):
    # It lists files that the next checkpoint replaces: only those in the work dir may be removed.
    content = to_plain(read_checkpoint(str(full_run.folder / "epoch_1.pth")))
    thesis, data = tmp_path / "thesis.txt", tmp_path / "data.txt"
    for path in (thesis, data):
        path.write_text("precious")
    info = dict(best_ckpt=str(thesis), outdated_checkpoints=[str(data)], best_score=-1.0)
    content["message_hub"]["runtime_info"].update(info)
    torch.save(content, tmp_path / "other.pth")
    run = small_run({"resume": True, "load_from": str(tmp_path / "other.pth")}).train()
    assert (run.folder / "best_semseg_mIoU_epoch_2.pth").exists()
    assert thesis.exists()
    assert data.exists()


def test_written_checkpoints_need_no_list_of_types(full_run):
    if compat.LISTS_TYPES:
        allowed = torch.serialization.get_safe_globals()  # PyTorch's tensor types
        assert all(entry.__module__.startswith("torch.") for entry in allowed)
    paths = sorted(full_run.folder.glob("*.pth"))
    assert len(paths) == 4
    for path in paths:
        content = torch.load(path, weights_only=True)
        assert {"state_dict", "meta", "message_hub"} <= content.keys()
    scalars = content["message_hub"]["log_scalars"]
    # it contained logs of NumPy arrays, NumPy scalars, and lists of tuples of colours
    assert "train/loss" in scalars
    assert content["meta"]["dataset_meta"]["semseg"]["palette"]


def test_logs_survive():
    for log in (
        HistoryBuffer([1.5, 2, float("nan")], [1, 2, 1], max_length=7),
        HistoryBuffer(),
    ):
        found = from_plain(to_plain(dict(a=[(log,)])))["a"][0][0]
        assert isinstance(found, HistoryBuffer)
        assert found.max_length == log.max_length
        for mine, theirs in zip(found.data, log.data, strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)
        found.update(3.0)
        assert found.current() == 3.0
        assert len(found.data[0]) == len(log.data[0]) + 1  # no shared memory


def test_plain_types_and_back(tmp_path):
    point = torch.Size([2, 3])
    content = OrderedDict(
        number=np.float64(0.1),
        flag=np.bool_(True),
        array=np.arange(6, dtype=np.int16).reshape(2, 3),
        nested=dict(a=[(np.int64(1), "x", None)]),
        size=point,
        tensor=torch.ones(2),
    )
    plain = to_plain(content)
    torch.save(plain, tmp_path / "plain.pth")
    found = torch.load(tmp_path / "plain.pth", weights_only=True)
    for result in (plain, found):
        assert type(result) is OrderedDict
        assert type(result["number"]) is float
        assert result["number"] == 0.1
        assert result["flag"] is True
        assert result["array"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert result["array"].dtype == torch.int16
        assert result["nested"] == dict(a=[(1, "x", None)])
        assert type(result["nested"]["a"][0][0]) is int
        assert result["size"] == point
    content["array"][0, 0] = 9
    assert plain["array"][0, 0] == 0  # a copy


@pytest.fixture
def of_mmengine(full_run, tmp_path):
    """A checkpoint as mmengine's runner writes it, with mmengine's types."""
    content = read_checkpoint(str(full_run.folder / "epoch_1.pth"))
    hub = MessageHub("of a checkpoint that mmengine's runner has written")
    for value in (1.0, np.float64(2.0)):
        hub.update_scalar("train/loss", value)
    hub.update_info("numbers", [np.float32(1.5), np.int64(3), np.arange(2)])
    hub.update_info_dict(dict(epoch=1, best_score=np.float64(2.0)))
    content["message_hub"] = hub.state_dict()
    path = tmp_path / "mmengine.pth"
    torch.save(content, path)
    return path


@reads_mmengines_types
def test_mmengines_own_checkpoints_are_read(small_run, full_run, of_mmengine):
    content = read_checkpoint(str(of_mmengine))
    expected = read_checkpoint(str(full_run.folder / "epoch_1.pth"))
    assert content["meta"] == expected["meta"]
    assert content["message_hub"]["runtime_info"]["epoch"] == 1
    for key, value in expected["state_dict"].items():
        assert torch.equal(content["state_dict"][key], value)
    assert small_run({"load_from": str(of_mmengine)}).test() == full_run.validations[0][1]


@reads_mmengines_types
def test_mmengines_own_checkpoints_are_resumed(small_run, full_run, of_mmengine):
    options = {"train_cfg.max_epochs": 3, "resume": True, "load_from": str(of_mmengine)}
    run = small_run(options, At("before_train_epoch", 8, kill))
    with pytest.raises(Killed):
        run.train()
    assert run.losses == {number: full_run.losses[number] for number in (5, 6, 7, 8)}
    # new checkpoints contain neither mmengine's types nor their replacements
    content = torch.load(run.folder / "epoch_2.pth", weights_only=True)
    assert content["message_hub"]["runtime_info"]["best_score"] > 2.0


@pytest.mark.parametrize("value", [HistoryBuffer([1.0], [1]), np.float64(1), np.zeros(3)])
def test_a_weight_that_is_not_a_tensor_is_refused(small_run, full_run, tmp_path, value):
    content = read_checkpoint(str(full_run.folder / "epoch_1.pth"))
    content["state_dict"]["heads.semseg.predict.bias"] = value
    path = tmp_path / "strange.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match="strange.pth"):
        small_run({"load_from": str(path)}).test()


def test_a_file_changes_no_class(tmp_path):
    # A log's state may contain names of statistics, which mmengine registers on the class.
    methods = dict(HistoryBuffer._statistics_methods)
    log = Reduced(HistoryBuffer, ([], []), dict(statistics_methods=dict(mean=1, other=2)))
    torch.save(dict(log=log), tmp_path / "log.pth")
    try:
        with suppress(InputError):
            read_checkpoint(str(tmp_path / "log.pth"))
        assert methods == HistoryBuffer._statistics_methods
    finally:
        HistoryBuffer._statistics_methods.clear()
        HistoryBuffer._statistics_methods.update(methods)


def test_training_and_resuming_never_unpickle_more(small_run, monkeypatch):
    load, calls = torch.load, []

    def spy(*args, **kwargs):
        calls.append(kwargs.get("weights_only"))
        return load(*args, **kwargs)  # only the argument matters here

    monkeypatch.setattr(torch, "load", spy)
    with pytest.raises(Killed):
        small_run(ONE_STEP, At("before_train_epoch", 1, kill)).train()
    run = small_run({**ONE_STEP, "resume": True}).train()
    assert sorted(run.losses) == [2]
    small_run({**ONE_STEP, "load_from": str(run.folder / "epoch_2.pth")}).test()
    assert len(calls) >= 3
    assert set(calls) == {True}


def _name(node):
    """``a.b.c`` as text; empty for computed values."""
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _calls(tree):
    """Yield (name ``a.b.c``, call node) for every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield _name(node.func), node


@cache
def _trees():
    folders = (ROOT / name for name in ("vmt_mm", "tools", "tests"))
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    assert len(files) > 80
    return {path: ast.parse(path.read_text()) for path in files if path != Path(__file__)}


def test_every_call_that_unpickles_takes_weights_only():
    found = 0
    for path, tree in _trees().items():
        for name, call in _calls(tree):
            if name not in ("torch.load", "torch.hub.load_state_dict_from_url"):
                continue
            found += 1
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            value = keywords.get("weights_only")
            assert isinstance(value, ast.Constant), f"{path}:{call.lineno}"
            assert value.value is True, f"{path}:{call.lineno}"
    assert found > 3


def test_nothing_else_unpickles():
    wrong = re.compile(r"(^|\.)(_?load_checkpoint|CheckpointLoader|pickle\.loads?|load_url)(\.|$)")
    for path, tree in _trees().items():
        if path.is_relative_to(ROOT / "tests"):
            continue
        imported = [
            f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        ]
        assert "torch.load" not in imported, path  # an alias would not be found
        names = imported + [name for name, _ in _calls(tree)]
        assert not [name for name in names if wrong.search(name)], path
