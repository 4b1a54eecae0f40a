"""Models on a simulated GPU: no tensor is created on the wrong device.

Parameters, buffers and images are PyTorch's fake tensors on 'cuda', which have no values; every
operator checks devices. Gradients need a real device and are not tested.
"""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from methods import CASES, ENCODERS, Case
from mmengine.dataset import Compose, pseudo_collate
from torch import nn

from vmt_mm.models import MultiTaskTTAModel
from vmt_mm.models.backbones.swin import arrange
from vmt_mm.models.sliding import parse_test_cfg
from vmt_mm.registry import MODELS, WEIGHTINGS
from vmt_mm.rendering import render_scene
from vmt_mm.tasks import build_tasks
from vmt_mm.weighting import build_weighting

fake_tensor = pytest.importorskip("torch._subclasses.fake_tensor")
pytestmark = pytest.mark.skipif(
    not hasattr(torch, "get_autocast_dtype"),
    reason="fake tensors of a device that is not there: from PyTorch 2.4 on",
)

TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=8),
    normals=dict(type="Normals"),
    saliency=dict(type="Saliency"),
    edge=dict(type="Edge"),
    depth=dict(type="Depth"),
)
HEADS = dict(
    mlp=dict(type="MLPHead", channels=8),
    hrnet=dict(type="HRNetHead"),
    dpt=dict(type="DPTHead", channels=8),
    fcn=dict(type="FCNHead", channels=8, num_convs=1, in_index=0, norm_cfg=dict(type="BN")),
    segformer=dict(type="SegformerHead", channels=8, norm_cfg=dict(type="BN")),
)
#: Tasks for the methods: few, since one pass per task multiplies the cost.
FEW = dict(list(TASKS.items())[:2])
SIZES = ((64, 64), (50, 64))
SCENES = [render_scene(0, "train", index, 64) for index in range(len(SIZES))]
CUDA = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def cuda():
    """All tensors within are fake; autocast finds a GPU with bfloat16."""
    started = torch.cuda.is_initialized()
    mode = fake_tensor.FakeTensorMode(allow_non_fake_inputs=True)
    with (
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        mock.patch("torch.cuda.is_bf16_supported", lambda *_: True),
        mock.patch.object(torch.Tensor, "pin_memory", lambda x, *_: x),
        # these two read values of CPU tensors, before anything is moved
        mock.patch("vmt_mm.models.data_preprocessor.warn_of_range"),
        mock.patch("mmengine.model.base_model.data_preprocessor.stack_batch", stack),
    ):
        yield mode
    arrange.cache_clear()  # it holds fake tensors
    assert torch.cuda.is_initialized() == started or torch.cuda.is_available()


def stack(images, *_):
    height, width = (max(x.shape[axis] for x in images) for axis in (1, 2))
    return torch.stack([F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in images])


def move(model, mode):
    """Replace parameters and buffers with fake ones on 'cuda'."""
    with mode:
        for module in model.modules():
            for key, value in module._parameters.items():
                if value is not None:
                    new = torch.empty_like(value, device=CUDA)
                    module._parameters[key] = nn.Parameter(new, value.requires_grad)
            for key, value in module._buffers.items():
                if value is not None:
                    module._buffers[key] = torch.empty_like(value, device=CUDA)
    model.data_preprocessor._device = CUDA
    return model


def build(case, head, mode, tasks=TASKS):
    backbone = dict(allow_random_backbone=True, peft=case.row.peft, **case.on.config)
    model = MODELS.build(
        dict(
            type="MultiTaskSegmentor",
            tasks=tasks,
            backbone=backbone,
            head=HEADS[head],
            data_preprocessor=dict(
                type="MultiTaskDataPreprocessor", mean=[124.0] * 3, std=[58.0] * 3, bgr_to_rgb=True
            ),
            eager_backward=False,
        )
    )
    return move(model, mode)


def batch(deferred):
    """Two images of different sizes, as from a loader; one lacks a label."""
    steps = [dict(type="PackMultiTaskInputs")]
    if deferred:
        steps.insert(0, dict(type="RandomWarp", size=(64, 64), on_device=True))
    specs = {name: task.label for name, task in build_tasks(TASKS).items()}
    samples = []
    for index, (height, width) in enumerate(SIZES):
        scene = SCENES[index]
        labels = dict(
            semseg=scene.semseg,
            normals=scene.normals,
            saliency=scene.saliency // 255,
            edge=scene.edge // 255,
            depth=scene.depth,
        )
        if index:
            del labels["depth"]
        labels = {name: label[:height, :width].copy() for name, label in labels.items()}
        image = scene.image[:height, :width].copy()
        results = dict(img=image, ori_shape=(height, width), img_shape=(height, width))
        samples.append(Compose(steps)({**results, "labels": labels, "label_specs": specs}))
    return pseudo_collate(samples)


def autocast(on):
    return torch.autocast("cuda", dtype=torch.bfloat16, enabled=on)


def check_losses(model, deferred=False):
    data = model.train().data_preprocessor(batch(deferred), True)
    losses = model(**data, mode="loss")
    assert set(losses) == {f"loss_{name}" for name in model.tasks}
    assert all(loss.device == CUDA and loss.dtype == torch.float32 for loss in losses.values())


def check_predictions(model, sizes=SIZES):
    """Check predictions, with one pass per image size."""
    data = {key: values[: len(sizes)] for key, values in batch(deferred=False).items()}
    samples = model.eval().test_step(data)
    for sample, size in zip(samples, sizes, strict=True):
        for name in model.tasks:
            prediction = sample.prediction(name)
            assert (prediction.device, tuple(prediction.shape[1:])) == (CUDA, size)


@pytest.mark.parametrize("case", CASES)
def test_every_method(case, cuda):
    model = build(case, "mlp", cuda, FEW)
    for half in (False, True):
        with cuda, autocast(half):
            check_losses(model)
            check_predictions(model, SIZES[:1])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("on", ENCODERS)
def test_every_head_with_all_tasks(on, head, cuda):
    model, kinds = build(Case(on, "VMTAdapter"), head, cuda), set()
    for part in model.heads.values():
        part.register_forward_hook(lambda *args: kinds.add(args[2].dtype))
    for half, kind in ((False, torch.float32), (True, torch.bfloat16)):
        kinds.clear()
        with cuda, autocast(half):
            check_losses(model, deferred=True)
            check_predictions(model)
        assert kinds == {kind}  # so that autocast has an effect


# gradient methods consist of backward passes
@pytest.mark.parametrize("kind", sorted({*WEIGHTINGS.module_dict} - {"GradientAggregation"}))
def test_every_weighting(kind, cuda, monkeypatch):
    # a backward pass needs a GPU; the other operations do not
    monkeypatch.setattr(torch.autograd, "grad", lambda out, leaf: (out * torch.ones_like(leaf),))
    model = build(Case("swin", "VMTAdapter"), "mlp", cuda, FEW)
    model.weighting = build_weighting(dict(type=kind), list(model.tasks))
    for epoch in (0, 5):  # in which some weightings compute other weights
        model.weighting.epoch = epoch
        with cuda, autocast(True):
            data = model.train().data_preprocessor(batch(False), True)
            total, log = model.parse_losses(model(**data, mode="loss"))
        assert all(x.device == CUDA and x.dtype == torch.float32 for x in (total, *log.values()))


def test_windows_and_test_time_augmentation(cuda):
    model = build(Case("swin", "VMTAdapter"), "mlp", cuda)
    data = batch(deferred=False)
    versions = [dict(inputs=data["inputs"], data_samples=data["data_samples"])] * 2
    with cuda:
        collated = {key: [version[key] for version in versions] for key in data}
        (tested, *_) = MultiTaskTTAModel(model).eval().test_step(collated)
        assert all(tested.prediction(name).device == CUDA for name in TASKS)
        model.window = parse_test_cfg(dict(mode="slide", crop_size=(48, 64), stride=(32, 64)))
        check_predictions(model)


def test_losses_that_are_differentiated_at_once(cuda, monkeypatch):
    """Only the forward pass: gradients are mocked."""
    model = build(Case("swin", "VMTAdapter"), "mlp", cuda, FEW)
    model.eager_backward = True
    monkeypatch.setattr(
        torch.autograd, "grad", lambda _, wanted, **__: [torch.empty_like(x) for x in wanted]
    )
    for half in (False, True):
        with cuda, autocast(half):
            check_losses(model)
