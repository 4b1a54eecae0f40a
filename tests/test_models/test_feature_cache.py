"""Side methods train on kept maps as on maps that are computed in every step."""

import copy
import errno
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from methods import SWIN, TASKS, VIT

from vmt_mm.errors import InputError
from vmt_mm.models import MultiTaskSegmentor, feature_cache
from vmt_mm.peft import DecodersOnly
from vmt_mm.structures import MultiTaskDataSample

DECODERS = dict(type="DecodersOnly")
SIDE = dict(type="SideVMT", ratio=4)


def build(folder=None, limit=1e9, on=SWIN, peft=SIDE):
    torch.manual_seed(0)
    return MultiTaskSegmentor(
        tasks=TASKS,
        backbone=dict(allow_random_backbone=True, peft=peft, **on.config),
        head=dict(type="MLPHead", channels=8),
        feature_cache=None if folder is None else dict(folder=str(folder), limit=limit),
    )


def samples(images):
    generator = torch.Generator().manual_seed(5)
    made = []
    for image in images:
        sample = MultiTaskDataSample(metainfo=dict(img_shape=tuple(image.shape[1:])))
        size = image.shape[1:]
        sample.set_label("semseg", torch.randint(0, 4, (1, *size), generator=generator))
        sample.set_label("normals", torch.randn(3, *size, generator=generator))
        made.append(sample)
    return made


def losses_of(model, images):
    torch.manual_seed(0)
    model.zero_grad()
    losses = model.train()(images, samples(images), mode="loss")
    sum(losses.values()).backward()
    return losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def count_images(model):
    """Number of images in each call of the backbone; the first one of a file has one image."""
    seen = []
    embed = model.backbone.patch_embed.projection
    embed.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    return seen


@pytest.mark.parametrize("peft", [DECODERS, SIDE], ids=["decoders", "side"])
@pytest.mark.parametrize("on", [SWIN, VIT], ids=["swin", "vit"])
def test_losses_and_gradients(on, peft, tmp_path):
    usual, model = build(on=on, peft=peft), build(tmp_path, on=on, peft=peft)
    seen = count_images(model)
    a, b, c = torch.randn(3, 3, 40, 52)
    for batch in ([a, b], [b, c], [c, a], [a, a]):
        images = torch.stack(batch)
        (own, gradients), (expected, others) = losses_of(model, images), losses_of(usual, images)
        assert own.keys() == expected.keys()
        for name, loss in expected.items():
            torch.testing.assert_close(own[name], loss, rtol=2e-3, atol=0)
        assert gradients.keys() == others.keys()
        for name, gradient in others.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=5e-3)
    assert seen == [1, 2, 1]
    assert set(model.state_dict()) == set(usual.state_dict())


def test_kept_maps_are_the_first_ones_bit_for_bit(tmp_path):
    images = torch.randn(2, 3, 40, 52)
    first, _ = losses_of(build(tmp_path), images)
    again = build(tmp_path)
    seen = count_images(again)
    assert losses_of(again, images)[0] == first
    assert seen == [1]  # the example of a map


def test_changes_are_noticed(tmp_path):
    model, images = build(tmp_path), torch.randn(1, 3, 32, 32)
    seen = count_images(model)
    losses_of(model, images)
    losses_of(model, images + 1e-3)
    assert seen == [1, 1, 1]
    losses_of(model, images.view(1, 3, 16, 64))
    with torch.autocast("cpu", torch.bfloat16):
        losses_of(model, images)
    state = {k: v * 2 for k, v in model.state_dict().items() if "index" not in k}
    model.load_state_dict(state, strict=False)
    losses_of(model, images)
    assert seen == [1] * 9
    other = copy.deepcopy(SWIN)
    other.config["window_size"] = 4
    model = build(tmp_path, on=other)
    seen = count_images(model)
    losses_of(model, images)
    assert seen == [1, 1]
    assert len([*tmp_path.iterdir()]) == 5


def test_training_the_branch_changes_nothing(tmp_path):
    model, images = build(tmp_path), torch.randn(1, 3, 32, 32)
    losses_of(model, images)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    seen = count_images(model)
    losses_of(model, images)
    losses_of(build(tmp_path, peft=dict(SIDE, ratio=2)), images)
    assert seen == []
    assert len([*tmp_path.iterdir()]) == 1


def test_a_method_with_other_channels_has_a_folder_of_its_own(tmp_path):
    class Twice(DecodersOnly):
        def task_features(self, stage, feature, kept, tasks, grid):
            return dict.fromkeys(tasks, torch.cat([feature, feature], 2))

        def side_features(self, images, maps, tasks):
            return dict.fromkeys(tasks, tuple(x[:, : x.shape[1] // 2] for x in maps))

    images = torch.randn(1, 3, 32, 32)
    losses = [
        losses_of(build(tmp_path, peft=dict(type=t)), images)[0] for t in (DecodersOnly, Twice)
    ]
    assert losses[0] == losses[1]
    assert len([*tmp_path.iterdir()]) == 2


def the_store(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def test_the_limit(tmp_path):
    images = torch.randn(4, 3, 32, 32)
    losses_of(build(tmp_path / "a"), images)
    size = (the_store(tmp_path / "a") / "maps").stat().st_size // 4
    losses_of(build(tmp_path / "b", limit=2.5 * size), images)
    assert (the_store(tmp_path / "b") / "maps").stat().st_size == 2 * size
    losses_of(build(tmp_path / "c", limit=1), images)
    assert not (tmp_path / "c").exists()


def test_a_killed_process_leaves_no_broken_record(tmp_path):
    images = torch.randn(4, 3, 32, 32)
    expected, _ = losses_of(build(), images)
    losses_of(build(tmp_path), images[:2])
    store = the_store(tmp_path)
    size = (store / "maps").stat().st_size // 2
    with (store / "maps").open("ab") as file:  # the end of a record and of a key is missing
        file.write(bytes(size + 7))
    with (store / "keys").open("ab") as file:
        file.write(b"half")
    for _ in range(2):
        found, _ = losses_of(build(tmp_path), images)
        for name, loss in expected.items():
            torch.testing.assert_close(found[name], loss, rtol=2e-3, atol=0)
    assert (store / "keys").stat().st_size == 4 * 16


def test_a_full_disk(tmp_path, monkeypatch):
    images = torch.randn(2, 3, 32, 32)
    write = feature_cache._write

    def fail_at_the_keys(path, *rest):
        if path.name == "keys":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, *rest)

    said = []
    monkeypatch.setattr(feature_cache, "print_log", lambda text, *_: said.append(text))
    monkeypatch.setattr(feature_cache, "_write", fail_at_the_keys)
    model = build(tmp_path)
    first, second = losses_of(model, images)[0], losses_of(model, images)[0]
    assert first == second
    monkeypatch.undo()
    losses_of(build(tmp_path), images)
    assert (the_store(tmp_path) / "keys").stat().st_size == 2 * 16
    assert sum("is full; no more images are added" in text for text in said) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda keys, maps: maps.write_bytes(b""),
        lambda keys, maps: maps.unlink(),
        lambda keys, maps: keys.write_bytes(bytes(range(160))),
        lambda keys, maps: keys.write_bytes(bytes(48)),
        lambda keys, maps: (keys.unlink(), keys.mkdir()),
    ],
    ids=["no records", "no maps", "random keys", "equal keys", "a folder"],
)
def test_damaged_files_are_an_error(damage, tmp_path):
    images = torch.randn(2, 3, 32, 32)
    losses_of(build(tmp_path), images)
    damage(the_store(tmp_path) / "keys", the_store(tmp_path) / "maps")
    with pytest.raises(InputError, match="is damaged, .*; delete the folder"):
        losses_of(build(tmp_path), images)


def test_files_that_shrink_in_use_are_an_error(tmp_path):
    model, images = build(tmp_path), torch.randn(2, 3, 32, 32)
    losses_of(model, images)
    (the_store(tmp_path) / "keys").write_bytes(b"")
    with pytest.raises(InputError, match="or was changed while in use"):
        losses_of(model, images + 1)


def test_maps_above_the_range_of_float16_are_an_error(tmp_path):
    model, images = build(tmp_path), torch.randn(1, 3, 32, 32)
    model.backbone.norm3.weight.data.fill_(1e6)
    with pytest.raises(InputError, match="above 65504, the limit of float16"):
        losses_of(model, images)
    assert not [*tmp_path.iterdir()]


def test_a_broken_image_is_left_to_the_check_of_the_loss(tmp_path):
    model, images = build(tmp_path), torch.full((1, 3, 32, 32), float("nan"))
    for _ in range(2):
        assert losses_of(model, images)[0]["loss_semseg"].isnan()


def test_images_with_other_channels_are_the_same_error_as_without_a_cache(tmp_path):
    for model in (build(), build(tmp_path)):
        with pytest.raises(InputError, match="1 channel.s., but in_channels=3"):
            losses_of(model, torch.randn(1, 1, 32, 32))


def test_copies_and_pickles_hold_no_maps(tmp_path):
    model = build(tmp_path)
    size, images = len(pickle.dumps(model)), torch.randn(4, 3, 32, 32)
    expected, _ = losses_of(model, images)
    kept = (the_store(tmp_path) / "maps").stat().st_size
    assert len(pickle.dumps(model)) < size + kept / 2
    copied = copy.deepcopy(model)
    assert copied.feature_cache is not None and not copied.feature_cache._stores
    assert losses_of(copied, images)[0] == expected


def test_two_at_the_same_time(tmp_path):
    """Threads, with a cache of their own each, since starting processes takes long."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 3, 32, 32, generator=generator)

    def fill(model):
        for image in images:
            model.feature_cache.get(image[None], model.backbone.frozen_maps)

    with ThreadPoolExecutor(2) as pool:
        [*pool.map(fill, [build(tmp_path), build(tmp_path)])]
    keys = np.fromfile(the_store(tmp_path) / "keys", np.uint64).reshape(-1, 2)
    assert len(keys) == len(np.unique(keys, axis=0)) == 8
    model = build(tmp_path)
    seen = count_images(model)
    kept, usual = losses_of(model, images)[0], losses_of(build(), images)[0]
    assert seen == [1]
    for name, loss in usual.items():
        torch.testing.assert_close(kept[name], loss, rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(limit=0), "`limit` must be a positive number, got 0"),
        (dict(limit="all"), "got 'all'"),
        (dict(limit=True), "got True"),
        (dict(limit=float("nan")), "got nan"),
        (dict(limit=float("inf")), "got inf"),
        (dict(peft=dict(type="BitFit")), "but the backbone has BitFit"),
        (dict(peft=dict(type="VMTAdapter")), "but the backbone has VMTAdapter"),
        (dict(peft=dict(type="DecodersOnly", unfreeze=["norm"])), "has DecodersOnly"),
    ],
)
def test_refused(settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        build(tmp_path, **settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (8e9, "must be a dict of `folder` and `limit`, .*; got 8"),
        (True, "got True"),
        (dict(foldr="x"), "got {'foldr': 'x'}"),
        (dict(folder=None), "`folder` must be a path, got None"),
        (dict(folder=""), "`folder` must be a path, got ''"),
    ],
)
def test_refused_configs(given, message):
    backbone = dict(allow_random_backbone=True, peft=SIDE, **SWIN.config)
    with pytest.raises(InputError, match=message):
        MultiTaskSegmentor(TASKS, backbone, dict(type="MLPHead"), feature_cache=given)
