"""Augmentation is a function of (seed, epoch, index), whichever process loads the sample."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image

from vmt_mm.datasets import MultiTaskDataset, SeededIndex, SeededSampler
from vmt_mm.datasets.sampler import seeded_by
from vmt_mm.errors import InputError

COUNT = 5


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope("vmt_mm")


class Library:
    """A third-party transform that draws from both global generators."""

    def __call__(self, results):
        results["img"] = results["img"].copy()
        results["img"][0, 0] = np.random.randint(0, 256, 3)
        results["img"][0, 1] = [random.randrange(256) for _ in range(3)]
        return results


class Note:
    """Note the index that reaches the dataset, and drop unwanted samples."""

    def __init__(self, unwanted=()):
        self.seen, self.unwanted = [], unwanted

    def __call__(self, results):
        self.seen.append(results["sample_idx"])
        return None if results["sample_idx"] in self.unwanted else results


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for folder in ("images", "semseg", "splits"):
        (root / folder).mkdir()
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        image = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / "images" / f"{index}.png")
        Image.fromarray(image[..., 0] % 4).save(root / "semseg" / f"{index}.png")
    (root / "splits" / "train.txt").write_text("".join(f"{i}\n" for i in range(COUNT)))
    return root


def _dataset(root, *extra):
    return MultiTaskDataset(
        str(root),
        dict(semseg=dict(type="Segmentation", num_classes=4)),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadLabels"),
            *extra,
            dict(type="RandomWarp", size=(8, 8)),
            dict(type="PhotoMetricDistortion"),
            Library(),
            dict(type="PackMultiTaskInputs"),
        ],
        serialize_data=False,  # before it, mmengine runs the garbage collector
    )


def _epoch(dataset, epoch=0, workers=0, seed=3, shuffle=True, views=None):
    """All samples of an epoch as (id, image, label)."""
    loader = Runner.build_dataloader(
        dict(
            batch_size=2,
            num_workers=workers,
            dataset=dataset,
            sampler=dict(type="SeededSampler", shuffle=shuffle, seed=seed, views=views),
        ),
        seed=0,
    )
    loader.sampler.set_epoch(epoch)
    return [
        (sample.sample_id, image, sample.label("semseg"))
        for batch in loader
        for image, sample in zip(batch["inputs"], batch["data_samples"], strict=True)
    ]


def _same(a, b):
    assert len(a) == len(b) > 0
    return all(
        i == j and torch.equal(x, y) and torch.equal(s, t)
        for (i, x, s), (j, y, t) in zip(a, b, strict=True)
    )


def test_workers_change_nothing(root):
    dataset = _dataset(root)
    np.random.seed(1)
    random.seed(1)
    alone = _epoch(dataset)
    assert len({sample_id for sample_id, _, _ in alone}) == COUNT
    # The state of the global generators must not matter.
    np.random.seed(2)
    random.seed(2)
    assert _same(_epoch(dataset), alone)
    for workers in (1, 2):
        assert _same(_epoch(dataset, workers=workers), alone)


def test_epoch_seed_and_index_decide(root):
    dataset = _dataset(root)
    first = {i: (x, s) for i, x, s in _epoch(dataset)}
    assert _same(_epoch(dataset, epoch=7), _epoch(dataset, epoch=7))
    for other in (_epoch(dataset, epoch=1), _epoch(dataset, seed=4)):
        for sample_id, image, label in other:
            assert not torch.equal(image, first[sample_id][0])
            assert not torch.equal(image[:, 0, :2], first[sample_id][0][:, 0, :2])
            assert not torch.equal(label, first[sample_id][1])
    # The order of samples does not matter.
    for sample_id, image, _ in _epoch(dataset, shuffle=False):
        assert torch.equal(image, first[sample_id][0])
    marks = {tuple(image[:, 0, :2].flatten().tolist()) for image, _ in first.values()}
    assert len(marks) == COUNT


def test_views_repeat(root):
    dataset = _dataset(root)
    epochs = [{i: x for i, x, _ in _epoch(dataset, epoch=epoch, views=2)} for epoch in range(4)]
    for sample_id, image in epochs[0].items():
        assert torch.equal(image, epochs[2][sample_id])
        assert not torch.equal(image, epochs[1][sample_id])
        assert torch.equal(epochs[1][sample_id], epochs[3][sample_id])


def test_views_of_several_draws(root):
    """A sample that an epoch draws twice has one view per epoch."""
    sampler = SeededSampler(range(COUNT), seed=3, length=2 * COUNT, views=3)
    sampler.set_epoch(4)
    drawn = [*sampler]
    assert {(index.key, int(index)) for index in drawn} == {((3, 1, i), i) for i in range(COUNT)}
    assert len(drawn) == 2 * COUNT


@pytest.mark.parametrize("views", [0, 1.5, True, "2"])
def test_views_that_are_refused(views):
    with pytest.raises(InputError, match="`views` must be a positive integer"):
        SeededSampler(range(COUNT), views=views)


def test_generators_of_the_process_are_restored(root):
    dataset = _dataset(root)
    states = random.getstate(), np.random.get_state()
    torch_state = torch.get_rng_state()
    dataset[SeededIndex(1, (0, 0, 1))]
    assert random.getstate() == states[0]
    for found, expected in zip(np.random.get_state(), states[1], strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(KeyError), seeded_by(SeededIndex(0, (0, 0, 0))):
        np.random.random()
        torch.rand(1)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1][1])


def test_plain_index_leaves_the_generators_alone(root):
    dataset = _dataset(root)
    np.random.seed(0)
    random.seed(0)
    first, second = dataset[1]["inputs"], dataset[1]["inputs"]
    assert not torch.equal(first, second)
    np.random.seed(0)
    random.seed(0)
    assert torch.equal(dataset[1]["inputs"], first)


def test_torchs_random_numbers_follow_the_draw_too():
    drawn = []
    for key in [(0, 0, 1), (0, 0, 1), (0, 1, 1)]:
        with seeded_by(SeededIndex(0, key)):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_draw_is_an_int_that_keeps_its_key():
    draw = SeededIndex(7, (1, 2, 7))
    assert draw == 7
    assert [*range(10)][draw] == 7
    for copied in (pickle.loads(pickle.dumps(draw)), copy.deepcopy(draw), draw - 0, draw % 100):
        assert type(copied) is SeededIndex
        assert (copied, copied.key) == (7, (1, 2, 7))
    assert ((draw - 3), (draw - 3).key) == (4, (1, 2, 7))
    assert ((draw % 5), (draw % 5).key) == (2, (1, 2, 7))


def test_sampler_yields_draws_in_the_order_of_mmengine(root):
    dataset = _dataset(root)
    sampler = SeededSampler(dataset, seed=11)
    orders = []
    for epoch in (0, 3):
        sampler.set_epoch(epoch)
        draws = list(sampler)
        assert sorted(draws) == list(range(COUNT))
        assert [draw.key for draw in draws] == [(11, epoch, int(draw)) for draw in draws]
        orders.append(draws)
        generator = torch.Generator().manual_seed(11 + epoch)
        assert draws == torch.randperm(COUNT, generator=generator).tolist()
    assert orders[0] != orders[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_wrappers_of_mmengine_keep_the_key(root, workers):
    # Every sample comes several times; each time with its own, reproducible augmentation.
    concat = ConcatDataset([_dataset(root), _dataset(root).get_subset([1, 2])])
    for wrapped, length in ((concat, 7), (RepeatDataset(_dataset(root), 2), 10)):
        first = _epoch(wrapped, workers=workers, shuffle=False)
        np.random.seed(9)
        random.seed(9)
        assert len(first) == length
        assert _same(_epoch(wrapped, workers=0, shuffle=False), first)
        repeated = [(x[1], y[1]) for x in first for y in first if x is not y and x[0] == y[0]]
        assert repeated
        assert not any(torch.equal(a, b) for a, b in repeated)


def test_the_replacement_of_a_dropped_sample_depends_on_the_draw_only(root):
    note = Note(unwanted={1, 3})
    dataset = _dataset(root, note)
    results = []
    for numpy_seed in (0, 1):
        np.random.seed(numpy_seed)
        results.append(dataset[SeededIndex(1, (3, 0, 1))])
    assert results[0]["data_samples"].sample_id not in "13"
    assert torch.equal(results[0]["inputs"], results[1]["inputs"])
    assert note.seen[0] == 1
    assert note.seen[: len(note.seen) // 2] == note.seen[len(note.seen) // 2 :]
