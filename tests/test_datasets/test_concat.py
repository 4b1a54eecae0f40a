"""Several datasets with different labels, concatenated."""

import numpy as np
import pytest
import torch
from mmengine.dataset import RepeatDataset
from mmengine.runner import Runner
from PIL import Image

from vmt_mm.datasets import ConcatDataset, MultiTaskDataset, SeededIndex
from vmt_mm.errors import InputError
from vmt_mm.registry import DATASETS

SIZE = (10, 12)
SEMSEG = dict(type="Segmentation", num_classes=4)
STREET = dict(semseg=SEMSEG, saliency=dict(type="Saliency"))
ROOMS = dict(normals=dict(type="Normals"), saliency=dict(type="Saliency"))
TRAIN = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="RandomWarp", size=(8, 8)),
    dict(type="PackMultiTaskInputs"),
]
NAMES = dict(semseg=dict(classes=("a", "b", "c", "d")))


def _save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def _write(root, ids, tasks, seed):
    rng = np.random.default_rng(seed)
    for i in ids:
        _save(root / f"images/{i}.png", rng.integers(0, 256, (*SIZE, 3)))
        for task in tasks:
            shape, low, high = {
                "semseg": (SIZE, 0, 4),
                "saliency": (SIZE, 0, 256),
                "normals": ((*SIZE, 3), 1, 256),
            }[task]
            _save(root / f"{task}/{i}.png", rng.integers(low, high, shape))
    (root / "splits").mkdir()
    (root / "splits/train.txt").write_text("\n".join(ids))


@pytest.fixture
def roots(tmp_path):
    """Three images of streets and five of rooms; both have saliency, and two ids are equal."""
    _write(tmp_path / "street", "abc", STREET, 0)
    _write(tmp_path / "rooms", "bcxyz", ROOMS, 1)
    return tmp_path / "street", tmp_path / "rooms"


def _entry(root, own, **more):
    entry = dict(type="MultiTaskDataset", data_root=str(root), tasks=own, pipeline=TRAIN)
    return {**entry, **more}


def _concat(roots, street=None, rooms=None, **kwargs):
    members = [_entry(roots[0], STREET, **(street or {})), _entry(roots[1], ROOMS, **(rooms or {}))]
    return DATASETS.build(dict(type="ConcatDataset", datasets=members, **kwargs))


def _labels(sample):
    return {task for task in (*STREET, *ROOMS) if sample.label(task) is not None}


def test_every_member_gives_the_labels_that_it_has(roots):
    dataset = _concat(roots)
    assert isinstance(dataset, ConcatDataset)
    samples = [dataset[index]["data_samples"] for index in range(len(dataset))]
    assert [sample.sample_id for sample in samples] == list("abcbcxyz")
    assert [_labels(sample) for sample in samples] == [set(STREET)] * 3 + [set(ROOMS)] * 5
    assert str(roots[1]) in samples[3].img_path


def test_the_augmentation_of_a_member_follows_the_concatenations_draw(roots):
    dataset, rooms = _concat(roots), DATASETS.build(_entry(roots[1], ROOMS))
    key = (3, 2, 6)
    inner = rooms[SeededIndex(3, key)]
    for state in range(2):
        np.random.seed(state)
        found = dataset[SeededIndex(6, key)]
        assert found["data_samples"].sample_id == "y"
        assert torch.equal(found["inputs"], inner["inputs"])
        for task in ROOMS:
            assert torch.equal(found["data_samples"].label(task), inner["data_samples"].label(task))
    assert not torch.equal(dataset[SeededIndex(6, (3, 3, 6))]["inputs"], inner["inputs"])


def test_a_damaged_image_is_replaced_within_its_member(roots):
    image = roots[0] / "images/b.png"
    image.write_bytes(image.read_bytes()[:60])
    dataset = _concat(roots, street=dict(on_error="skip"))
    loader = Runner.build_dataloader(
        dict(batch_size=2, dataset=dataset, sampler=dict(type="SeededSampler", seed=3)), seed=0
    )
    samples = [sample for batch in loader for sample in batch["data_samples"]]
    assert sum(str(roots[0]) in sample.img_path for sample in samples) == 3
    (replaced,) = [sample for sample in samples if sample.get("skipped")]
    assert list(replaced.skipped) == [str(image)]
    assert replaced.img_path in (str(roots[0] / "images/a.png"), str(roots[0] / "images/c.png"))
    # the other member does not allow skipping
    image = roots[1] / "images/x.png"
    image.write_bytes(image.read_bytes()[:60])
    with pytest.raises(InputError, match="rooms/images/x.png: the PNG is truncated"):
        list(loader)


def test_metainfo_is_that_of_the_members_that_label_a_task(roots):
    palette = [(0, 0, 0), (1, 2, 3), (4, 5, 6), (7, 8, 9)]
    rooms = dict(
        tasks=dict(ROOMS, semseg=SEMSEG),
        metainfo=dict(
            semseg=dict(classes=["a", "b", "c", "d"], palette=palette), saliency=dict(x=1)
        ),
    )
    (roots[1] / "semseg").mkdir()
    meta = _concat(roots, street=dict(metainfo=NAMES), rooms=rooms).metainfo
    assert list(meta["semseg"]["classes"]) == ["a", "b", "c", "d"]
    assert meta["semseg"]["palette"] == palette
    assert meta["saliency"] == dict(x=1)
    # A member without labels of the task is asked last, and only for the complete entry.
    others = dict(metainfo=dict(semseg=dict(classes=("p", "q"), palette=[(9, 9, 9)] * 2)))
    assert _concat(roots, street=dict(metainfo=NAMES), rooms=others).metainfo == NAMES
    assert _concat(roots, rooms=others).metainfo == others["metainfo"]


def test_members_that_contradict_each_other_are_named(roots):
    (roots[1] / "semseg").mkdir()
    tasks = dict(ROOMS, semseg=SEMSEG)
    swapped = dict(semseg=dict(classes=("b", "a", "c", "d")))
    options = dict(street=dict(metainfo=NAMES), rooms=dict(tasks=tasks, metainfo=swapped))
    with pytest.raises(InputError) as caught:
        _concat(roots, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "task 'semseg': classes is ('a', 'b', 'c', 'd') in datasets[0]" in message
    assert f"('b', 'a', 'c', 'd') in datasets[1] ({roots[1]})" in message
    more = dict(ROOMS, semseg=dict(SEMSEG, num_classes=5))
    with pytest.raises(
        InputError, match="'semseg': type is 'Segmentation with 4 channels' in .*street.* 5"
    ):
        _concat(roots, rooms=dict(tasks=more))


def test_ids_of_a_test_must_differ(roots):
    test = dict(test_mode=True)
    with pytest.raises(InputError, match=r"id 'b' is in datasets\[0\] .*rooms.*id_prefix"):
        _concat(roots, street=test, rooms=test)
    dataset = _concat(roots, street=test, rooms=dict(test, id_prefix="rooms"))
    ids = [dataset[index]["data_samples"].sample_id for index in range(len(dataset))]
    assert ids == ["a", "b", "c", *(f"rooms/{i}" for i in "bcxyz")]


@pytest.mark.parametrize("wrapper", [dict(type="RepeatDataset", times=1), dict()])
def test_ids_of_a_test_must_differ_within_wrappers(roots, wrapper):
    street = _entry(roots[0], STREET, test_mode=True)
    inner = (
        dict(wrapper, dataset=street) if wrapper else dict(type="ConcatDataset", datasets=[street])
    )
    with pytest.raises(InputError, match=r"id 'b' is in datasets\[0\] .* and in datasets\[1\]"):
        ConcatDataset([inner, _entry(roots[1], ROOMS, test_mode=True)])
    ConcatDataset([inner, _entry(roots[1], ROOMS, test_mode=True, id_prefix="rooms")])


@pytest.mark.parametrize("prefix", ["/outputs", "../outputs", "a/../..", 3, True])
def test_a_prefix_stays_below_the_folder_of_outputs(roots, prefix):
    with pytest.raises(InputError, match="`id_prefix` must be a relative folder"):
        DATASETS.build(_entry(roots[0], STREET, id_prefix=prefix))
    dataset = DATASETS.build(_entry(roots[0], STREET, id_prefix="a//b/"))
    assert dataset.get_data_info(0)["sample_id"] == "a/b/a"


def test_wrapped_members_take_part(roots):
    members = [
        dict(type="RepeatDataset", dataset=_entry(roots[0], STREET, metainfo=NAMES), times=2),
        DATASETS.build(_entry(roots[1], ROOMS)),
    ]
    dataset = ConcatDataset(members)
    assert isinstance(dataset.datasets[0], RepeatDataset)
    assert (len(dataset), dataset.metainfo) == (11, NAMES)
    assert dataset[SeededIndex(7, (0, 0, 7))]["data_samples"].sample_id == "c"
    wrong = dict(STREET, saliency=dict(type="Edge"))
    members[0]["dataset"].update(tasks=wrong)
    with pytest.raises(InputError, match="'saliency': type is 'Edge.*'Saliency"):
        ConcatDataset(members)


@pytest.mark.parametrize("datasets", [[], None, "abc"])
def test_members_are_needed(datasets):
    with pytest.raises(InputError, match="`datasets` must list at least one"):
        ConcatDataset(datasets)


def test_parts_share_a_list(roots):
    parts = [MultiTaskDataset(str(roots[1]), ROOMS, part=(k, 2), pipeline=TRAIN) for k in (0, 1)]
    ids = [[part.get_data_info(i)["sample_id"] for i in range(len(part))] for part in parts]
    assert ids == [list("bxz"), list("cy")]
    for wrong in ((2, 2), (-1, 2), (0,), (0, 1.0), "ab", 1):
        with pytest.raises(InputError, match="`part` must be "):
            MultiTaskDataset(str(roots[1]), ROOMS, part=wrong, pipeline=TRAIN)
    with pytest.raises(InputError, match=r"train.txt: `part`=\(5, 6\) selects none of 5 id"):
        MultiTaskDataset(str(roots[1]), ROOMS, part=(5, 6), pipeline=TRAIN)


def test_metainfo_must_be_by_field(roots):
    with pytest.raises(InputError, match="street: metainfo must be dict.*, got saliency='x'"):
        _concat(roots, street=dict(metainfo=dict(saliency="x")))
