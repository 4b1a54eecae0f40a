"""The Swin backbone equals mmseg's, stays frozen, and outputs what it declares."""

import pytest
import torch
from mmseg.models.backbones import SwinTransformer

from vmt_mm.errors import InputError
from vmt_mm.models.backbones.swin import ARCHITECTURES
from vmt_mm.registry import MODELS

TASKS = ["semseg", "normals"]


def build(**options):
    cfg = dict(
        type="MultiTaskSwin",
        arch="nano",
        tasks=TASKS,
        allow_random_backbone=True,
        peft=dict(type="VMTAdapter"),
    )
    encoder = MODELS.build({**cfg, **options})
    encoder.init_weights()
    return encoder


def randomize(module):
    """Randomize every parameter, so that a wrong use of any is visible."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


@pytest.mark.parametrize("size", [(224, 224), (512, 384), (50, 60), (17, 33)])
@pytest.mark.parametrize("peft", ["VMTAdapter", "DecodersOnly", "FullFineTuning"])
def test_start_equals_mmseg(size, peft):
    stock = SwinTransformer(**ARCHITECTURES["nano"])
    stock.eval()  # returns None in mmseg
    randomize(stock)
    encoder = build(peft=dict(type=peft)).eval()
    missing, unknown = encoder.load_state_dict(stock.state_dict(), strict=False)
    assert not unknown
    assert all(key.startswith("peft.") for key in missing)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected, features = stock(images), encoder(images)
    assert list(features) == TASKS
    for maps in features.values():
        assert len(maps) == 4
        for level, (own, theirs) in enumerate(zip(maps, expected, strict=True)):
            stride, channels = encoder.strides[level], encoder.out_channels[level]
            assert own.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))
            assert (own - theirs).norm() <= 1e-5 * theirs.norm()


def test_keys_of_the_frozen_backbone_are_mmsegs():
    stock = set(SwinTransformer(**ARCHITECTURES["tiny"]).state_dict())
    own = set(build(arch="tiny").state_dict())
    assert {key for key in own if not key.startswith("peft.")} == stock


def test_only_requested_tasks_are_computed():
    encoder = build().eval()
    images = torch.randn(1, 3, 64, 64)
    assert list(encoder(images, ["normals"])) == ["normals"]
    with pytest.raises(InputError, match=r"unknown task.*depth.*semseg"):
        encoder(images, ["depth"])


def test_frozen_modules_stay_in_eval_mode():
    encoder = build(drop_path_rate=0.2)
    assert encoder.train() is encoder
    training = {name for name, module in encoder.named_modules() if module.training}
    assert not any("attn" in name or "ffn" in name or "norm1" in name for name in training)
    assert "peft.blocks.0.up" in training
    full = build(peft=dict(type="FullFineTuning"), drop_path_rate=0.2).train()
    assert full.stages[1].blocks[0].attn.drop.training


def test_activation_checkpointing_changes_nothing():
    plain, recomputing = build(), build(with_cp=True)
    randomize(plain)
    recomputing.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 40, 56)
    gradients = []
    for encoder in (plain, recomputing):
        features = encoder.train()(images)
        sum(m.square().mean() for maps in features.values() for m in maps).backward()
        gradients.append({n: p.grad for n, p in encoder.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradient, gradients[1][name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(arch="giant"), "`arch` must be in .* got 'giant'"),
        (dict(tasks=[]), "list of distinct names"),
        (dict(tasks=["semseg", "semseg"]), "list of distinct names"),
        (dict(frozen_stages=1), "MultiTaskSwin: unknown argument 'frozen_stages'"),
        (dict(out_indices=(1, 2, 3)), "MultiTaskSwin: unknown argument 'out_indices'"),
        (dict(use_abs_pos_embed=True), "MultiTaskSwin: unknown argument 'use_abs_pos_embed'"),
        (dict(peft=dict(type="Nothing")), "peft: unknown type 'Nothing'"),
        (dict(peft=dict(type="VMTAdapter", ratio=7)), "divides the channels of every block"),
        (dict(peft=dict(type="VMTAdapter", ratio=0)), "divides the channels of every block"),
        (dict(peft=dict(type="VMTAdapter", gate=1.5)), r"`gate` must be in \[0, 1\], got 1.5"),
        (dict(peft=dict(type="VMTAdapter", gate=1, learnable_gate=True)), r"in \(0, 1\) with"),
        (dict(allow_random_backbone=False), "no pretrained weights"),
        (dict(pretrained="nowhere.pth"), "'nowhere.pth' do not exist"),
    ],
)
def test_wrong_settings_are_one_message(options, message):
    with pytest.raises(InputError, match=message):
        build(**options)


VIT = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64)


@pytest.mark.parametrize(
    "options", [{}, dict(type="MultiTaskViT", arch=VIT, patch_size=14, img_size=56)]
)
def test_images_of_other_channels(options):
    encoder = build(in_channels=4, **options).eval()
    with torch.no_grad():
        maps = encoder(torch.randn(1, 4, 64, 64))["normals"]
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    with pytest.raises(InputError, match=r"images have 3 channel\(s\).*in_channels=4"):
        encoder(torch.randn(1, 3, 64, 64))


def test_weights_for_three_channels_fit_no_other():
    match = r"mismatched key.*projection\.weight \(20, 3, 4, 4\) \(model: \(20, 4, 4, 4\)\)"
    with pytest.raises(InputError, match=match):
        build(in_channels=4, pretrained="vmt_mm://swin_nano", allow_random_backbone=False)
