"""A checkpoint fits the model, or one error names the differences, with both values."""

import copy
from pathlib import Path

import pytest
import torch
from run_hooks import At, Killed, kill
from safetensors.torch import save_file
from small_runs import small_config

import vmt_mm
from vmt_mm.checkpoints.files import read_checkpoint
from vmt_mm.errors import InputError
from vmt_mm.loading.model import describe, load_model
from vmt_mm.models.backbones.pretrained import read_state_dict
from vmt_mm.registry import MODELS

GONE = {"model.backbone.pretrained": "gone/encoder.pth"}
SHIPPED = Path(vmt_mm.__file__).parent / "weights/swin_nano.safetensors"


@pytest.fixture
def build(scenes):
    """Build the small model with other options; return it with its description."""

    def build(options=None):
        cfg, options = small_config(scenes), copy.deepcopy(options or {})
        for key in options.pop("without", ()):
            del cfg.model.tasks[key]
            del cfg.model.backbone.tasks[key]
        cfg.merge_from_dict(options)
        model = MODELS.build(cfg.model)
        return model, describe(model, cfg.model)

    return build


@pytest.fixture(scope="session")
def path(full_run):
    return full_run.folder / "epoch_2.pth"


@pytest.fixture
def checkpoint(path, full_run):
    """A checkpoint with the frozen backbone, as with save_frozen=True."""
    content = read_checkpoint(str(path))
    content["meta"].pop("frozen_encoder")
    model = full_run.model
    saved, own = content["state_dict"], model.state_dict()
    content["state_dict"] = {key: saved.get(key, value).clone() for key, value in own.items()}
    return content


def refusal(model, own, checkpoint):
    """The error that refuses a checkpoint; check that the model is unchanged."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_model(model, checkpoint, "file.pth", own)
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value), name
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("file.pth")
    return message


def test_the_pretrained_file_is_only_needed_to_start(small_run, full_run, path):
    run = small_run({**GONE, "train_cfg.max_epochs": 3, "resume": True, "load_from": str(path)})
    assert run.train().losses == {n: loss for n, loss in full_run.losses.items() if n > 8}
    last = run.folder / "epoch_3.pth"
    assert small_run({**GONE, "load_from": str(last)}).test() == full_run.validations[-1][1]
    # a training can also start from a checkpoint's weights
    run = small_run({**GONE, "load_from": str(path)}, At("before_train_iter", 0, kill))
    with pytest.raises(Killed):
        run.train()
    with pytest.raises(InputError, match="'gone/encoder.pth' do not exist"):
        small_run(GONE).train()


def without_frozen(checkpoint, model):
    frozen = [f"backbone.{n}" for n, p in model.backbone.named_parameters() if not p.requires_grad]
    assert len(frozen) > 50
    for key in frozen:
        del checkpoint["state_dict"][key]
    return frozen


def test_missing_frozen_weights_come_from_the_declared_file(build, checkpoint, full_run):
    model, own = build()
    frozen = without_frozen(checkpoint, model)
    load_model(model, checkpoint, "file.pth", own)
    expected = full_run.model.state_dict()
    for key in frozen:
        assert torch.equal(model.state_dict()[key], expected[key]), key
    for key, value in checkpoint["state_dict"].items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("pretrained", "message"),
    [(None, "set `pretrained` to their file"), ("gone.pth", "'gone.pth' do not exist")],
)
def test_without_frozen_weights_and_without_their_file(build, checkpoint, pretrained, message):
    model, own = build({"model.backbone.pretrained": pretrained})
    without_frozen(checkpoint, model)
    with pytest.raises(InputError, match=message):
        load_model(model, checkpoint, "file.pth", own)


def test_some_frozen_weights_are_not_enough(build, checkpoint):
    model, own = build()
    for key in without_frozen(checkpoint, model)[:1]:
        checkpoint["state_dict"][key] = model.state_dict()[key].clone()
    assert "missing key(s)" in refusal(model, own, checkpoint)


_TASKS = ["human_parts", "normals", "saliency", "semseg"]


@pytest.mark.parametrize(
    ("options", "described", "otherwise"),
    [
        (
            {"model.backbone.arch": "tiny"},
            "encoder.arch: 'nano' in the checkpoint, 'tiny' in the config",
            "(20, 3, 4, 4) (model: (96, 3, 4, 4))",
        ),
        (
            {"without": ["normals"]},
            f"tasks: {_TASKS} in the checkpoint, ['human_parts', 'saliency', 'semseg'] in",
            "unexpected key(s): backbone.peft.blocks.0.alpha.normals",
        ),
        (
            {"model.tasks.semseg.num_classes": 9},
            "task 'semseg': 'Segmentation with 8 channel(s)' in the checkpoint, 'Segmentation with",
            "heads.semseg.predict.bias (8,) (model: (9,))",
        ),
        (
            {"model.tasks.saliency.type": "Edge"},
            "task 'saliency': 'Saliency with 1 channel(s)' in the checkpoint, 'Edge with 1 channel",
            None,  # same weights, other meaning: only the description differs
        ),
        (
            {"model.backbone.peft.gate": 0.3},
            "peft.gate: 0.5 in the checkpoint, 0.3 in the config",
            None,
        ),
        (
            {"model.backbone.peft.ratio": 2},
            "peft.ratio: 1 in the checkpoint, 2 in the config",
            "(20, 20) (model: (10, 20))",
        ),
        (
            {"model.backbone.peft": dict(type="DecodersOnly", _delete_=True)},
            "peft: 'VMTAdapter' in the checkpoint, 'DecodersOnly' in the config",
            "unexpected key(s): backbone.peft.blocks.0",
        ),
        (
            {"model.head.channels": 24},
            "(16, 20) (model: (24, 20))",
            "(16, 20) (model: (24, 20))",
        ),
    ],
)
def test_another_model_is_refused(build, checkpoint, options, described, otherwise):
    model, own = build(options)
    assert described in refusal(model, own, checkpoint)
    if otherwise is not None:
        del checkpoint["meta"]["vmt_mm"]
        assert otherwise in refusal(model, own, checkpoint)


def test_settings_that_change_no_output_may_differ(build, checkpoint):
    options = {"model.backbone.with_cp": True, "model.backbone.drop_path_rate": 0.1, **GONE}
    model, own = build({**options, "model.backbone.allow_random_backbone": True})
    load_model(model, checkpoint, "file.pth", own)
    for key, value in checkpoint["state_dict"].items():
        assert torch.equal(model.state_dict()[key], value), key


def test_keys_are_missing_unknown_or_of_another_shape(build, checkpoint):
    model, own = build()
    state = checkpoint["state_dict"]
    index = [key for key in state if key.endswith("relative_position_index")]
    for key in index:  # computed by the model
        del state[key]
    load_model(model, checkpoint, "file.pth", own)
    state["heads.semseg.extra"] = torch.zeros(1)
    del state["heads.saliency.predict.bias"], state["backbone.peft.blocks.3.up.weight"]
    state["heads.normals.fuse.weight"] = torch.zeros(2, 3)
    message = refusal(model, own, checkpoint)
    for part in (
        "2 missing key(s): backbone.peft.blocks.3.up.weight, heads.saliency.predict.bias",
        "1 unexpected key(s): heads.semseg.extra",
        "1 mismatched key(s): heads.normals.fuse.weight (2, 3) (model: (16, 64, 1, 1))",
    ):
        assert part in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_inf_weights_are_refused(build, checkpoint, value):
    model, own = build()
    key = next(k for k in checkpoint["state_dict"] if k.startswith("heads.") and "weight" in k)
    checkpoint["state_dict"][key].view(-1)[1] = value
    message = refusal(model, own, checkpoint)
    count = checkpoint["state_dict"][key].numel()
    assert message.startswith(f"file.pth: {key} has 1 NaN or infinite value(s) of {count}")


def test_a_pretrained_file_with_nan_is_refused(build, tmp_path):
    state = read_state_dict(str(SHIPPED))
    state["patch_embed.projection.weight"].view(-1)[0] = float("nan")
    save_file(state, tmp_path / "encoder.safetensors")
    model, _ = build({"model.backbone.pretrained": str(tmp_path / "encoder.safetensors")})
    with pytest.raises(InputError, match=r"encoder.safetensors: patch_embed\.projection.* 1 NaN"):
        model.init_weights()


PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "model.", "model._orig_mod.net."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_keys_of_wrappers_and_other_frameworks(build, checkpoint, prefix):
    model, own = build()
    state = checkpoint["state_dict"]
    inner = {key.replace("backbone.", "backbone._orig_mod."): v for key, v in state.items()}
    for content in (state, inner):
        checkpoint["state_dict"] = {f"{prefix}{key}": value for key, value in content.items()}
        without_frozen_of(checkpoint["state_dict"], model)
        load_model(model, checkpoint, "file.pth", own)
        for key, value in state.items():
            assert torch.equal(model.state_dict()[key], value), key
        model, own = build()


def without_frozen_of(state, model):
    """Remove the frozen backbone, whatever the prefix of its keys."""
    frozen = tuple(n for n, p in model.backbone.named_parameters() if not p.requires_grad)
    for key in [k for k in state if k.endswith(frozen) and "peft" not in k]:
        del state[key]


@pytest.mark.parametrize("content", ["encoder", "list", "nothing", "number"])
def test_files_that_are_not_checkpoints_of_such_a_model(build, content):
    model, own = build()
    content = dict(
        encoder=dict(state_dict=model.backbone.state_dict()),
        list=[torch.zeros(1)],
        nothing={},
        number=3,
    )[content]
    message = refusal(model, own, content)
    assert "not a checkpoint of a multi-task model" in message
    assert "`pretrained`" in message


def test_the_file_of_a_backbone_is_not_a_checkpoint(small_run):
    with pytest.raises(InputError, match=rf"{SHIPPED} is not a checkpoint of a multi-task model"):
        small_run({"load_from": str(SHIPPED)}).test()


def test_a_checkpoint_without_an_optimizer_is_not_resumed(small_run, full_run):
    (best,) = full_run.folder.glob("best*.pth")
    options = {"resume": True, "load_from": str(best)}
    with pytest.raises(InputError, match=rf"{best} cannot be resumed: it has no optim") as error:
        small_run(options).train()
    assert str(error.value).endswith(f"set load_from={best} without --resume")
    assert small_run({"load_from": str(best)}).test() == full_run.validations[-1][1]


def damage(source, target, kind):
    content = bytearray(source.read_bytes())
    if kind == "flipped":  # one bit of the weights
        content[len(content) // 2] ^= 1
    content = dict(
        truncated=content[: len(content) // 2], garbage=b"\x80\x02}garbage" * 99, empty=b""
    ).get(kind, content)
    target.write_bytes(content)
    return str(target)


KINDS = ("truncated", "garbage", "empty", "flipped")


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named(path, tmp_path, kind):
    damaged = damage(path, tmp_path / "damaged.pth", kind)
    for read in (read_checkpoint, read_state_dict):
        with pytest.raises(InputError, match=rf"{damaged}: cannot be read as weights"):
            read(damaged)
    if kind != "flipped":  # this format has no checksums
        damaged = damage(SHIPPED, tmp_path / "damaged.safetensors", kind)
        with pytest.raises(InputError, match=rf"{damaged}: cannot be read as weights"):
            read_state_dict(damaged)


WAYS = {
    "resume": lambda path: {"resume": True, "load_from": path},
    "load_from": lambda path: {"load_from": path},
    "pretrained": lambda path: {"model.backbone.pretrained": path},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_file_ends_a_run_before_it_trains(small_run, path, tmp_path, way):
    damaged = damage(path, tmp_path / "damaged.pth", "truncated")
    run = small_run(WAYS[way](damaged))
    with pytest.raises(InputError, match=f"{damaged}: cannot be read as weights"):
        run.train()
    assert run.losses == {}
    assert not list(run.folder.glob("*.pth"))


def test_backbones_of_both_formats_are_pretrained_files(path, tmp_path):
    shipped = read_state_dict("vmt_mm://swin_nano")
    save_file(shipped, tmp_path / "copy.safetensors")
    torch.save(dict(model=shipped), tmp_path / "copy.pth")
    for name in ("copy.safetensors", "copy.pth"):
        found = read_state_dict(str(tmp_path / name))
        assert found.keys() == shipped.keys()
        assert all(torch.equal(found[key], shipped[key]) for key in found)
    with pytest.raises(InputError, match="contains no tensors"):
        torch.save(dict(model={"a": 1}), tmp_path / "none.pth")
        read_state_dict(str(tmp_path / "none.pth"))
