"""Training batches that are warped on the model's device equal those of the loader's workers.

Few of the integer image values (0..255) differ, and by one level: OpenCV rounds coordinates
elsewhere, see test_batch_warp.py.
"""

import copy

import numpy as np
import pytest
import torch
from exact_maps import exact_interpolation
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import ImgDataPreprocessor

from vmt_mm.datasets.transforms import RandomWarp
from vmt_mm.errors import InputError
from vmt_mm.models import MultiTaskDataPreprocessor
from vmt_mm.registry import MODELS
from vmt_mm.rendering import render_scene
from vmt_mm.structures import DeferredWarp, MultiTaskDataSample
from vmt_mm.tasks import Depth, Edge, LabelSpec, Normals, Saliency, Segmentation


class Sides(LabelSpec):
    """Classes 1 and 2 are a left and a right."""

    categorical = True

    def transform_values(self, labels, geometry):
        exchanged = torch.where((labels == 1) | (labels == 2), 3 - labels, labels)
        return torch.where(geometry.flip, exchanged, labels)


SPECS = {
    "semseg": Segmentation("semseg", num_classes=8).label,
    "saliency": Saliency.label,
    "normals": Normals.label,
    "edge": Edge.label,
    "depth": Depth("depth", zoom_divides=True).label,
    "sides": Sides(),
}
SIZES = [(64, 64), (50, 64), (64, 41), (33, 33)]
TARGET = (56, 72)
NORMALISE = dict(mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4], bgr_to_rgb=True)


def _results(index):
    scene, (height, width) = render_scene(0, "train", index, 64), SIZES[index]
    labels = dict(
        semseg=scene.semseg,
        saliency=scene.saliency // 255,
        normals=scene.normals,
        edge=scene.edge // 255,
        depth=scene.depth,
        sides=scene.semseg % 3,
    )
    if index == 2:
        del labels["normals"], labels["edge"]  # an image without some labels
    cut = {task: label[:height, :width].copy() for task, label in labels.items()}
    image = scene.image[:height, :width, ::-1].copy()
    return dict(img=image, ori_shape=(height, width), labels=cut, label_specs=dict(SPECS))


def _batch(on_device, **options):
    pipeline = Compose(
        [
            dict(type="RandomWarp", size=TARGET[::-1], on_device=on_device, **options),
            dict(type="PackMultiTaskInputs"),
        ]
    )
    samples = []
    for index in range(len(SIZES)):
        np.random.seed(index)
        samples.append(pipeline(_results(index)))
    return pseudo_collate(samples)


def _plain(data):
    return MultiTaskDataPreprocessor()(data, True)


def _labels(data):
    return {
        (row, task): sample.label(task)
        for row, sample in enumerate(data["data_samples"])
        for task in SPECS
        if sample.label(task) is not None
    }


def test_draws_are_those_of_the_cpu(monkeypatch):
    drawn = []
    warp_of = RandomWarp.transform.__globals__["make_warp"]

    def noted(*args):
        drawn.append(args)
        return warp_of(*args)

    monkeypatch.setitem(RandomWarp.transform.__globals__, "make_warp", noted)
    states = []
    for on_device in (False, True):
        _batch(on_device)
        states.append(np.random.get_state()[1].copy())
    assert drawn[: len(SIZES)] == drawn[len(SIZES) :]
    assert len({args[2:] for args in drawn}) == len(SIZES)
    np.testing.assert_array_equal(*states)


def test_workers_leave_images_and_labels_as_they_are():
    data = _batch(True)
    for index, (image, sample) in enumerate(zip(data["inputs"], data["data_samples"], strict=True)):
        before = _results(index)
        assert torch.equal(image, torch.from_numpy(before["img"]).permute(2, 0, 1))
        for task in before["labels"]:
            expected = SPECS[task].to_tensor(before["labels"][task])
            assert torch.equal(sample.label(task), expected)


@exact_interpolation
def test_batches_are_those_of_the_workers():
    found, expected = _plain(_batch(True)), _plain(_batch(False))
    difference = (found["inputs"] - expected["inputs"]).abs()
    assert found["inputs"].shape == (len(SIZES), 3, *TARGET)
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01
    assert torch.equal(found["inputs"], found["inputs"].round())
    labels, of_workers = _labels(found), _labels(expected)
    assert labels.keys() == of_workers.keys()
    assert (2, "normals") not in labels
    for key, label in labels.items():
        assert label.dtype == of_workers[key].dtype
        close = torch.isclose(label, of_workers[key], atol=1e-3, rtol=1e-5)
        assert close.float().mean() > 0.995, key
    for one, other in zip(found["data_samples"], expected["data_samples"], strict=True):
        assert dict(one.metainfo_items()) == dict(other.metainfo_items())


@exact_interpolation
def test_colours_are_normalised_as_on_the_cpu():
    found, expected = (MultiTaskDataPreprocessor(**NORMALISE)(_batch(x), True) for x in (1, 0))
    assert (found["inputs"] - expected["inputs"]).abs().max() < 1.01 / 57
    # The mean colour, which fills new pixels, is near 0 in both.
    assert (found["inputs"].abs().amax(1) < 0.02).float().mean() > 0.05


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_flip_alone_is_exact(flip):
    for index, size in enumerate(SIZES):
        options = dict(size=size[::-1], flip_prob=flip, rotate=(0, 0), scale=(1, 1))
        results = [
            Compose([RandomWarp(**options, on_device=x), dict(type="PackMultiTaskInputs")])(
                _results(index)
            )
            for x in (True, False)
        ]
        found, expected = (_plain(pseudo_collate([x])) for x in results)
        assert torch.equal(found["inputs"], expected["inputs"])
        for key, label in _labels(found).items():
            torch.testing.assert_close(label, _labels(expected)[key], atol=1e-6, rtol=0)


def test_the_loaders_batch_stays_as_it_is():
    """A hook may read the batch before the training step does."""
    data = _batch(True)
    before = copy.deepcopy(data["inputs"])
    first, second = _plain(data), _plain(data)
    assert torch.equal(first["inputs"], second["inputs"])
    assert all(DeferredWarp.key in sample for sample in data["data_samples"])
    assert all(torch.equal(a, b) for a, b in zip(before, data["inputs"], strict=True))


def test_datasets_may_label_a_task_in_different_ways():
    data = _batch(True)
    scales = [sample.deferred_warp.warp.scale for sample in data["data_samples"]]
    divided = _labels(_plain(data))
    for sample in data["data_samples"][:2]:
        sample.deferred_warp.specs["depth"] = Depth("depth").label
    found = _labels(_plain(data))
    for row, scale in enumerate(scales):
        factor = scale if row < 2 else 1.0
        torch.testing.assert_close(found[row, "depth"], divided[row, "depth"] * factor)


@pytest.mark.parametrize("training", [True, False])
def test_without_a_warp_it_is_mmengines(training):
    data = _batch(False)
    found = MultiTaskDataPreprocessor(**NORMALISE)(copy.deepcopy(data), training)
    expected = ImgDataPreprocessor(**NORMALISE)(data, training)
    assert torch.equal(found["inputs"], expected["inputs"])
    assert all(torch.equal(x, _labels(expected)[key]) for key, x in _labels(found).items())
    images = dict(inputs=[torch.zeros(3, 4, 4)])  # no samples, as in inference
    assert MultiTaskDataPreprocessor()(images)["inputs"].shape == (1, 3, 4, 4)


def test_warps_out_of_place_are_refused():
    with pytest.raises(InputError, match="is only for training pipelines"):
        MultiTaskDataPreprocessor()(_batch(True), False)
    data, other = _batch(True), _batch(False)
    with pytest.raises(InputError, match="those of all training datasets or of none"):
        _plain({key: values[:2] + other[key][2:] for key, values in data.items()})
    other = _batch(True, fill=(1, 2, 3))
    with pytest.raises(InputError, match="the same size and fill"):
        _plain({key: values[:2] + other[key][2:] for key, values in data.items()})


@pytest.mark.parametrize(
    "cfg",
    [
        dict(type="RandomFlip", prob=1.0),
        dict(type="Pad", size=(90, 90)),
        dict(type="Resize", scale=(20, 20)),
        dict(type="RandomCrop", crop_size=(9, 9)),
        dict(type="RandomWarp", size=(20, 20), on_device=True),
        dict(type="mmcv.Resize", scale=(20, 20)),
    ],
    ids=lambda cfg: cfg["type"],
)
def test_nothing_moves_the_image_after_a_deferred_warp(cfg):
    warp = dict(type="RandomWarp", size=(20, 20), on_device=True)
    with pytest.raises(InputError, match=r"last geometric transform|crops the image without"):
        Compose([warp, cfg, dict(type="PackMultiTaskInputs")])(_results(0))


def test_a_preprocessor_without_warps_is_refused():
    model = MODELS.build(
        dict(
            type="MultiTaskSegmentor",
            tasks=dict(saliency=dict(type="Saliency")),
            data_preprocessor=dict(type="ImgDataPreprocessor"),
            backbone=dict(type="MultiTaskSwin", arch="nano", allow_random_backbone=True),
            head=dict(type="MLPHead", channels=8),
        )
    )
    data = {key: values[:1] for key, values in _batch(True).items()}
    with pytest.raises(InputError, match="data_preprocessor.type=MultiTaskDataPreprocessor"):
        model(**model.data_preprocessor(data, True), mode="loss")


def test_labels_are_pinned_with_their_images(monkeypatch):
    pinned = []

    def pin(tensor, *_):
        pinned.append(tensor.data_ptr())
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    data = _batch(True)
    found = torch.utils.data._utils.pin_memory.pin_memory(data)
    expected = _labels(data)
    assert set(pinned) == {x.data_ptr() for x in (*data["inputs"], *expected.values())}
    assert all(isinstance(sample, MultiTaskDataSample) for sample in found["data_samples"])
    for key, label in _labels(found).items():
        assert torch.equal(label, expected[key])
        assert label.data_ptr() != expected[key].data_ptr()
    assert found["data_samples"][1].deferred_warp.source == SIZES[1]


def test_all_of_it_is_done_on_the_device_and_waits_for_no_value():
    """On the meta device, a tensor left on the CPU and a read of a value are errors."""
    preprocessor = MultiTaskDataPreprocessor(**NORMALISE, non_blocking=True).to("meta")
    found = preprocessor(_batch(True), True)
    assert found["inputs"].is_meta
    assert found["inputs"].shape == (len(SIZES), 3, *TARGET)
    labels = _labels(found)
    assert labels.keys() == _labels(_plain(_batch(True))).keys()
    assert all(label.is_meta and label.shape[1:] == TARGET for label in labels.values())


def _of_images(*images):
    return dict(inputs=list(images), data_samples=[MultiTaskDataSample() for _ in images])


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(
        "vmt_mm.models.data_preprocessor.print_log", lambda text, *_: lines.append(text)
    )
    return lines


@pytest.mark.parametrize("swap", [True, False])
def test_any_number_of_channels(swap):
    images = [torch.rand(5, 6, 7) * 5 for _ in range(2)]
    mean, std = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 3.0, 4.0, 5.0, 6.0]
    preprocessor = MultiTaskDataPreprocessor(mean, std, bgr_to_rgb=swap)
    order = [2, 1, 0, 3, 4] if swap else [0, 1, 2, 3, 4]
    expected = torch.stack(images)[:, order] - torch.tensor(mean).view(-1, 1, 1)
    expected = expected / torch.tensor(std).view(-1, 1, 1)
    for _ in range(2):
        assert torch.equal(preprocessor(_of_images(*images))["inputs"], expected)
    assert preprocessor.state_dict() == {}


@exact_interpolation
@pytest.mark.parametrize("swap", [True, False])
def test_warps_on_the_device_of_four_channels(swap):
    options = dict(size=(9, 8), flip_prob=1, rotate=(9, 9), scale=(0.6, 0.6), fill=(1, 2, 3, 4))
    image = np.random.default_rng(0).integers(0, 255, (10, 12, 4), dtype=np.uint8)
    batches = []
    for on_device in (False, True):
        results = RandomWarp(on_device=on_device, **options).transform(dict(img=image))
        sample = MultiTaskDataSample(
            metainfo={k: results[k] for k in [DeferredWarp.key] if on_device}
        )
        inputs = torch.from_numpy(results["img"].transpose(2, 0, 1).copy())
        batches.append(dict(inputs=[inputs], data_samples=[sample]))
    preprocessor = MultiTaskDataPreprocessor([0.0] * 4, [1.0] * 4, bgr_to_rgb=swap)
    here, there = (preprocessor(batch, training=True)["inputs"] for batch in batches)
    assert here.shape == there.shape == (1, 4, 8, 9)
    assert (here - there).abs().max() <= 1
    corner = [3, 2, 1, 4] if swap else [1, 2, 3, 4]
    assert here[0, :, 0, 0].tolist() == there[0, :, 0, 0].tolist() == corner


def test_three_channels_are_as_mmengine_has_them():
    images = [torch.randint(0, 256, (3, 6, 7), dtype=torch.uint8) for _ in range(2)]
    own, its = MultiTaskDataPreprocessor(**NORMALISE), ImgDataPreprocessor(**NORMALISE)
    assert torch.equal(own(_of_images(*images))["inputs"], its(_of_images(*images))["inputs"])
    grey = MultiTaskDataPreprocessor(mean=[100.0], std=[50.0])
    assert torch.equal(grey(_of_images(images[0][:1]))["inputs"][0], (images[0][:1] - 100.0) / 50)


def test_channels_that_do_not_fit():
    three, four = torch.zeros(3, 4, 4), torch.zeros(4, 4, 4)
    for images, message in (
        ([four], "mean and std have 3 values, but the images have 4 channel"),
        ([three[:1]], "mean and std have 3 values, but the images have 1 channel"),
        ([three, four], r"images in one batch have 3 and 4 channels"),
    ):
        with pytest.raises(InputError, match=message):
            MultiTaskDataPreprocessor(**NORMALISE)(_of_images(*images))
    with pytest.raises(InputError, match="bgr_to_rgb needs 3 channels"):
        MultiTaskDataPreprocessor(bgr_to_rgb=True)(_of_images(three[:1]))


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([1.0], None),
        ([1.0, 2.0], [1.0, 2.0, 3.0]),
        ([1.0], [0.0]),
        (["a"], [1.0]),
        ([float("nan")], [1.0]),
        ([], []),
        (1.0, 2.0),
    ],
)
def test_wrong_mean_and_std(mean, std):
    with pytest.raises(InputError, match="data_preprocessor"):
        MultiTaskDataPreprocessor(mean, std)


IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
UNIT = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


@pytest.mark.parametrize(
    ("largest", "settings", "fits"),
    [
        (255, IMAGENET, True),
        (1, UNIT, True),
        (9000, dict(mean=[8000.0], std=[1000.0]), True),
        (255, {}, True),
        (1, IMAGENET, False),
        (255, UNIT, False),
        (9000, IMAGENET, False),
    ],
)
def test_mean_and_std_of_another_range_are_warned_of_once(said, largest, settings, fits):
    preprocessor = MultiTaskDataPreprocessor(**settings)
    image = torch.linspace(0, largest, 48).view(3, 4, 4)
    for _ in range(2):
        preprocessor(_of_images(image, image))
    assert len(said) == (0 if fits else 1)
    if not fits:
        assert f"mean and std map image values [0, {largest}] to" in said[0]
