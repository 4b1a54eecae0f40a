"""A few labels of every task are checked before the first step, within any wrappers."""

from types import SimpleNamespace

import mmengine.dataset
import numpy as np
import pytest
from PIL import Image

from vmt_mm.datasets import ConcatDataset, MultiTaskDataset, verification
from vmt_mm.engine.hooks.reports import LabelReportHook
from vmt_mm.errors import InputError

TASKS = dict(floor=dict(type="Segmentation", num_classes=3), saliency=dict(type="Saliency"))


def _save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(values)).save(path)


def _dataset(root, count=5, floor=((0, 1), (2, 0)), saliency=((0, 255), (0, 0)), **kwargs):
    for i in range(count):
        _save(root / f"images/{i}.png", np.zeros((2, 2, 3)))
        _save(root / f"floor/{i}.png", floor)
        _save(root / f"saliency/{i}.png", saliency)
    (root / "splits").mkdir()
    (root / "splits/train.txt").write_text("\n".join(map(str, range(count))))
    return MultiTaskDataset(str(root), TASKS, **kwargs)


@pytest.fixture
def warnings_of():
    """Warnings of the hook before a training and before a test."""

    def run(dataset, validation=None):
        said = []
        loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
        logger = SimpleNamespace(warning=said.append)
        runner = SimpleNamespace(train_loop=loop, val_loop=None, test_loop=loop, logger=logger)
        if validation is not None:
            runner.val_loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=validation))
            LabelReportHook().before_train(runner)
            return said
        LabelReportHook().before_train(runner)
        train = said.copy()
        LabelReportHook().before_test(runner)
        assert said == 2 * train
        return train

    return run


def test_sound_labels_are_not_warned_of(tmp_path, warnings_of):
    assert warnings_of(_dataset(tmp_path / "a")) == []


def test_every_member_is_looked_at_within_wrappers(tmp_path, warnings_of):
    sound = _dataset(tmp_path / "sound")
    ignored = _dataset(tmp_path / "ignored", floor=[[255, 255]])
    faint = _dataset(tmp_path / "faint", saliency=[[0, 100]])
    repeated = mmengine.dataset.RepeatDataset(ignored, 2)
    found = warnings_of(ConcatDataset([ConcatDataset([sound, repeated]), faint]))
    assert len(found) == 2
    assert found[0].startswith(f"{tmp_path}/ignored/floor: no pixel has a label, all are ignored (")
    assert found[1].startswith(f"{tmp_path}/faint/saliency: every pixel is background (")
    assert found[0].endswith("(based on 5 label(s); run tools/misc/verify_dataset.py to check all)")


def test_a_label_that_cannot_be_used_ends_the_run_before_it_begins(tmp_path, warnings_of):
    for on_error in ("raise", "skip"):
        root = tmp_path / on_error
        dataset = _dataset(root, on_error=on_error)
        _save(root / "saliency/3.png", [[0, 1]])
        if on_error == "raise":
            with pytest.raises(InputError, match=r"saliency/3.png: .* values='mask01'"):
                warnings_of(dataset)
        else:
            assert warnings_of(dataset) == []


def test_labels_of_the_validation_are_looked_at_before_a_training(tmp_path, warnings_of):
    sound, ignored = tmp_path / "a", tmp_path / "b"
    sound.mkdir(), ignored.mkdir()
    dataset = _dataset(sound)
    (said,) = warnings_of(dataset, _dataset(ignored, saliency=((0, 0), (0, 0))))
    assert f"{ignored}/saliency: every pixel is background" in said
    _save(ignored / "saliency/3.png", [[0, 1], [1, 0]])
    with pytest.raises(InputError, match="got only 0 and 1"):
        warnings_of(dataset, MultiTaskDataset(str(ignored), TASKS))


def test_the_look_is_short(tmp_path, monkeypatch):
    dataset = _dataset(tmp_path / "many", count=200)
    read = []
    decode = type(dataset.label_specs["floor"]).decode
    monkeypatch.setattr(
        "vmt_mm.tasks.labels.LabelSpec.decode",
        lambda spec, path: read.append(path) or decode(spec, path),
    )
    assert verification.look_at_labels(dataset) == []
    assert len(read) == len(set(read)) == 2 * 32
    numbers = sorted(int(path.split("/")[-1][:-4]) for path in read)
    assert numbers[0] < 40  # spread over the list
    assert numbers[-1] > 160
    monkeypatch.setattr(verification, "_SECONDS", 0.0)
    assert verification.look_at_labels(dataset) == []
    assert len(read) == 2 * 32


def test_normals_not_of_unit_length_are_warned_of(tmp_path, warnings_of):
    codes = np.full((4, 4, 3), [128, 128, 255])
    codes[0] = 255  # white without a normal
    for i in range(2):
        _save(tmp_path / f"images/{i}.png", np.zeros((4, 4, 3)))
        _save(tmp_path / f"normals/{i}.png", codes)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text("0\n1")
    said = warnings_of(MultiTaskDataset(str(tmp_path), dict(normals=dict(type="Normals"))))
    assert len(said) == 1
    assert "25.0% of the normals are not of unit length" in said[0]
