"""A checkpoint without the frozen backbone takes it from its file, or an error explains why not."""

import copy

import pytest
import torch
from run_hooks import At
from safetensors.torch import save_file
from small_runs import ONE_STEP, small_config

from vmt_mm.checkpoints.files import read_checkpoint
from vmt_mm.checkpoints.frozen import FrozenRecord, fingerprint, frozen_keys, keys_left_out
from vmt_mm.errors import InputError
from vmt_mm.loading.model import describe, load_model
from vmt_mm.models.backbones.pretrained import read_state_dict
from vmt_mm.registry import MODELS
from vmt_mm.utils.compat import has
from vmt_mm.utils.modules import unwrap

SOURCE = "vmt_mm://swin_nano"
ALL = {"default_hooks.checkpoint.save_frozen": True}
EMA = {"custom_hooks": [dict(type="EMAHook", momentum=0.5)]}
ONE = {**ONE_STEP, "train_cfg.max_epochs": 1, "train_cfg.val_interval": 9}


def read(path):
    return read_checkpoint(str(path))


def build(scenes, options=None):
    cfg = small_config(scenes)
    cfg.merge_from_dict(copy.deepcopy(options or {}))
    model = MODELS.build(cfg.model)
    return model, describe(model, cfg.model)


def other_encoder(path):
    """A file that differs from the shipped one in one value."""
    state = {key: value.clone() for key, value in read_state_dict(SOURCE).items()}
    state["stages.3.blocks.1.ffn.layers.1.bias"][0] += 0.5
    save_file(state, path)
    return str(path)


def test_content_of_a_checkpoint(full_run):
    model = full_run.model
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    frozen = frozen_keys(model)
    assert frozen.isdisjoint(trains)
    assert len(frozen) > 100
    paths = sorted(full_run.folder.glob("*.pth"))
    assert {p.name for p in paths} >= {"epoch_1.pth", "epoch_3.pth"}
    assert any(p.name.startswith("best_") for p in paths)
    for path in paths:
        content = read(path)
        assert content["state_dict"].keys() == model.state_dict().keys() - frozen
        assert trains <= content["state_dict"].keys()
        assert content["meta"]["frozen_encoder"] == dict(
            source=SOURCE, sha256=fingerprint(model, frozen), tensors=len(frozen)
        )


def test_a_new_model_gets_its_backbone_back(full_run, scenes):
    content = read(full_run.folder / "epoch_3.pth")
    for options in ({}, {"model.backbone.pretrained": None}):  # declared, or from the file
        model, own = build(scenes, options)
        load_model(model, copy.deepcopy(content), "file.pth", own)
        for key, value in full_run.model.state_dict().items():
            assert torch.equal(model.state_dict()[key], value), key
        assert model.backbone.pretrained_path == SOURCE


@pytest.mark.parametrize("resume", [True, False])
def test_another_backbone_is_refused(small_run, full_run, tmp_path, resume):
    other = other_encoder(tmp_path / "other.safetensors")
    path = str(full_run.folder / "epoch_1.pth")
    run = small_run({"model.backbone.pretrained": other, "load_from": path, "resume": resume})
    with pytest.raises(InputError) as caught:
        run.train()
    message = str(caught.value)
    assert message.startswith(f"{path} was trained on the frozen backbone of {SOURCE!r} (SHA-256 ")
    assert f"{other!r} contains a different one" in message
    assert run.losses == {}


def test_a_missing_backbone_is_named(full_run, scenes):
    content = read(full_run.folder / "epoch_1.pth")
    content["meta"]["frozen_encoder"]["source"] = "gone/theirs.pth"
    for ours in ("gone/ours.pth", None):
        model, own = build(scenes, {"model.backbone.pretrained": ours})
        with pytest.raises(InputError, match=r"backbone, those of 'gone/theirs") as e:
            load_model(model, content, "file.pth", own)
        assert f"{ours or 'gone/theirs.pth'!r} do not exist" in str(e.value)


def test_a_record_that_lost_a_tensor_is_refused(full_run, scenes):
    model, own = build(scenes)
    content = read(full_run.folder / "epoch_1.pth")
    del content["state_dict"]["heads.semseg.predict.bias"]
    with pytest.raises(InputError, match="1 missing key"):
        load_model(model, content, "file.pth", own)
    content = read(full_run.folder / "epoch_1.pth")
    content["meta"]["frozen_encoder"]["tensors"] -= 1
    with pytest.raises(InputError, match="missing key"):
        load_model(model, content, "file.pth", own)
    content["meta"]["frozen_encoder"] = dict(source=3)
    with pytest.raises(InputError, match="file.pth: damaged file, its meta.frozen_encoder is"):
        load_model(model, content, "file.pth", own)


def test_save_frozen_saves_everything(small_run, tmp_path):
    run = small_run({**ONE, **ALL}).train()
    content = read(run.folder / "epoch_1.pth")
    assert content["state_dict"].keys() == run.runner.model.state_dict().keys()
    assert "frozen_encoder" not in content["meta"]
    # needs no other file; a backbone without a file is always saved in full
    gone = {"model.backbone.pretrained": "gone.pth", "load_from": str(run.folder / "epoch_1.pth")}
    run = small_run({**ONE, **gone}, folder=tmp_path / "next").train()
    assert read(run.folder / "epoch_1.pth")["state_dict"].keys() == content["state_dict"].keys()


def test_a_random_backbone_is_saved(small_run):
    random = {"model.backbone.pretrained": None, "model.backbone.allow_random_backbone": True}
    run = small_run({**ONE, **random}).train()
    path = run.folder / "epoch_1.pth"
    assert read(path)["state_dict"].keys() == run.runner.model.state_dict().keys()
    small_run({**random, "load_from": str(path)}).test()


def test_without_the_hook_the_same_is_saved(small_run, full_run):
    save = At(
        "after_train_iter", 1, lambda runner: runner.save_checkpoint(runner.work_dir, "a.pth")
    )
    run = small_run(ONE, save).train()  # as on a signal
    expected = read(full_run.folder / "epoch_1.pth")["state_dict"].keys()
    assert read(run.folder / "a.pth")["state_dict"].keys() == expected


def test_an_average_of_the_weights(small_run, tmp_path):
    options = {"train_cfg.max_epochs": 2, "default_hooks.checkpoint.save_best": None, **EMA}
    full_run = small_run(options, folder=tmp_path / "full").train()
    content = read(full_run.folder / "epoch_1.pth")
    model = full_run.model
    names = {key.removeprefix("module.") for key in content["ema_state_dict"]} - {"steps"}
    assert names == content["state_dict"].keys() == model.state_dict().keys() - frozen_keys(model)
    options.update({"resume": True, "load_from": str(full_run.folder / "epoch_1.pth")})
    run = small_run(options).train()
    assert run.losses == {n: value for n, value in full_run.losses.items() if n > 4}
    assert run.validations[-1] == full_run.validations[-1]
    assert run.validations[0] == full_run.validations[0]


def test_interpolated_tensors_stay_in_the_checkpoint(small_run):
    # another machine may round differently
    run = small_run({**ONE, "model.backbone.window_size": 5}).train()
    model, state = run.runner.model, read(run.folder / "epoch_1.pth")["state_dict"]
    tables = {k for k in model.state_dict() if k.endswith("relative_position_bias_table")}
    assert len(tables) == 8
    assert tables <= state.keys()
    assert frozen_keys(model) - tables == model.state_dict().keys() - state.keys()
    small_run({**ONE, "model.backbone.window_size": 5, "load_from": str(run.folder / "epoch_1.pth")}
              ).test()  # fmt: skip


def test_fingerprints_tell_values_keys_shapes_and_types_apart(scenes):
    model, _ = build(scenes)
    keys = frozen_keys(model)
    first = fingerprint(model, keys)
    assert first == fingerprint(copy.deepcopy(model), sorted(keys, reverse=True))
    name = "backbone.stages.0.blocks.0.norm1.bias"
    seen = {first, fingerprint(model, keys - {name})}
    parameter = model.get_parameter(name)
    parameter.data[0] += 1e-6
    seen.add(fingerprint(model, keys))
    parameter.data = parameter.data.double()
    seen.add(fingerprint(model, keys))
    parameter.data = parameter.data.float().reshape(2, -1)
    seen.add(fingerprint(model, keys))
    assert len(seen) == 5
    # the memory layout does not count
    convolution = model.backbone.patch_embed.projection.weight
    before = fingerprint(model, keys)
    convolution.data = convolution.data.contiguous(memory_format=torch.channels_last)
    assert fingerprint(model, keys) == before


def test_models_without_an_encoder_from_a_file_leave_nothing_out(scenes):
    model, _ = build(scenes)
    assert keys_left_out(model) == set()  # before loading
    assert keys_left_out(torch.nn.Linear(2, 2)) == set()
    model.init_weights()
    assert keys_left_out(model) == frozen_keys(model)
    assert FrozenRecord.of(model, ()).tensors == 0


def test_wrappers(scenes):
    model = torch.nn.Linear(2, 2)
    if has("2.4"):  # older versions patch optimizers globally
        assert unwrap(torch.compile(model)) is model
    assert unwrap(torch.nn.DataParallel(model)) is model
    assert unwrap(model) is model
