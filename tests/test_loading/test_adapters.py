"""An adapter file is small, safe to read, and restores the checkpoint's model, bit for bit."""

import copy
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from methods import VIT, scatter
from mmengine.config import Config
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_runs import small_config

import vmt_mm
from vmt_mm.checkpoints.adapter_file import from_json, is_adapter_file, read_adapter, to_json
from vmt_mm.checkpoints.files import read_checkpoint, to_plain
from vmt_mm.checkpoints.frozen import frozen_keys
from vmt_mm.config.components import check_types
from vmt_mm.errors import InputError
from vmt_mm.loading.adapters import export_adapter, load_adapter, merge_adapter
from vmt_mm.loading.edit import edit_tasks
from vmt_mm.loading.model import describe
from vmt_mm.models.backbones.package_index import MADE_FILE
from vmt_mm.models.backbones.pretrained import locate, read_state_dict
from vmt_mm.registry import DATASETS, MODELS
from vmt_mm.tasks import Segmentation

SOURCE = "vmt_mm://swin_nano"
ENCODER_BYTES = 4 * sum(value.numel() for value in read_state_dict(SOURCE).values())
IMAGES = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))


def config(scenes, options=None):
    cfg = small_config(scenes)
    cfg.merge_from_dict(copy.deepcopy(options or {}))
    return cfg


def trained(cfg):
    """A model with changed values on the declared backbone, and its full checkpoint."""
    model = MODELS.build(cfg.model)
    model.init_weights()
    scatter(model)
    for name, buffer in model.heads.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    meta = dict(vmt_mm=describe(model, cfg.model), dataset_meta=dict(semseg=dict(classes=("a",))))
    return model.eval(), dict(meta=to_plain(meta), state_dict=model.state_dict())


def method(**peft):
    return {"model.backbone.peft": dict(_delete_=True, **peft)}


def vit(tmp_path):
    """Options for a small ViT whose backbone is in a separate file."""
    backbone = {k: v for k, v in VIT.config.items() if k != "type"}
    encoder = MODELS.build(dict(type="MultiTaskViT", tasks=["a"], peft=None, **backbone))
    path = str(tmp_path / "vit.safetensors")
    save_file({key: torch.randn_like(value) for key, value in encoder.state_dict().items()}, path)
    peft = dict(type="VMTAdapter", ratio=4)
    tasks = ["semseg", "human_parts", "saliency", "normals"]
    kind = dict(type="MultiTaskViT", pretrained=path, peft=peft, tasks=tasks, **backbone)
    return {"model.backbone": dict(_delete_=True, **kind)}


CASES = {
    "VMT-Adapter": method(type="VMTAdapter", ratio=1),
    "ViT": vit,
    "Multiple LoRA": method(type="PerTask", method=dict(type="LoRA", rank=2)),
    "Hyperformer": method(type="Hyperformer", ratio=4, embedding=6),
    "BitFit": method(type="BitFit"),
    "full": method(type="FullFineTuning"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_model_is_the_checkpoints_bit_for_bit(scenes, tmp_path, case):
    options = CASES[case](tmp_path) if callable(CASES[case]) else CASES[case]
    cfg = config(scenes, options)
    model, content = trained(cfg)
    torch.save(content, tmp_path / "full.pth")
    path = tmp_path / "adapter.safetensors"
    export_adapter(cfg, tmp_path / "full.pth", path)
    found = load_adapter(path)
    assert not found.training
    for key, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key
    with torch.no_grad():
        expected, logits = model(IMAGES), found(IMAGES)
    assert logits.keys() == expected.keys()
    assert all(torch.equal(logits[task], expected[task]) for task in expected)
    stored = load_file(path)
    assert stored.keys().isdisjoint(frozen_keys(model))
    trains = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert path.stat().st_size < 4 * trains + 60_000
    assert (path.stat().st_size < ENCODER_BYTES) == (case != "full")


@pytest.fixture(scope="session")
def adapter(full_run, tmp_path_factory):
    """The adapter of the training's best checkpoint. Read-only."""
    (best,) = full_run.folder.glob("best*.pth")
    path = tmp_path_factory.mktemp("adapter") / "adapter.safetensors"
    export_adapter(full_run.cfg, best, path)
    return path


def test_content_of_an_adapter_file(adapter, full_run):
    with safe_open(adapter, framework="pt") as content:
        metadata = {k: v for k, v in content.metadata().items() if k != "kind"}
    found = {key: json.loads(text) for key, text in metadata.items()}
    assert found["format_version"] == 1
    assert found["package_version"] == vmt_mm.__version__
    assert found["tasks"] == ["semseg", "human_parts", "saliency", "normals"]
    assert len(found["classes"]["semseg"]) == len(found["palettes"]["semseg"]) == 8
    assert found["frozen_encoder"]["source"] == SOURCE
    assert re.fullmatch("[0-9a-f]{64}", found["frozen_encoder"]["sha256"])
    best = max(full_run.validations, key=lambda v: v[1]["semseg/mIoU"])
    assert found["metrics"] == pytest.approx(best[1])
    assert "work_dir" not in found["config"]
    assert is_adapter_file(adapter)
    assert not is_adapter_file(locate(SOURCE))
    assert not is_adapter_file(full_run.folder / "epoch_1.pth")
    assert not is_adapter_file("configs/vmt/vmt_swin-nano_shapes.py")
    assert not is_adapter_file("none")


def test_config_and_names_come_along(adapter, full_run, scenes):
    model = load_adapter(str(adapter))
    assert isinstance(model.cfg, Config)
    for key in ("model", "test_dataloader", "tasks"):
        assert model.cfg[key] == config(scenes)[key], key
    scale = next(s for s in model.cfg.test_dataloader.dataset.pipeline if s["type"] == "Resize")
    assert isinstance(scale["scale"], tuple)  # mmcv accepts no list
    known = DATASETS.build(full_run.cfg.train_dataloader.dataset).metainfo
    assert list(model.dataset_meta) == list(model.tasks)
    assert list(model.dataset_meta["semseg"]["classes"]) == list(known["semseg"]["classes"])
    assert model.dataset_meta["normals"] == {}


def test_metrics_are_of_exactly_these_weights_or_unknown(full_run, tmp_path):
    # a checkpoint is written before its validation; the results are stored next to the last one
    last = export_adapter(full_run.cfg, full_run.folder / "epoch_3.pth", tmp_path / "a.safetensors")
    assert last.metrics == full_run.validations[-1][1]
    shutil.copy(full_run.folder / "epoch_3.pth", tmp_path / "alone.pth")
    content = read_checkpoint(str(tmp_path / "alone.pth"))
    noted = content["message_hub"]["runtime_info"].get("last_validation", {}).get("iter")
    alone = export_adapter(full_run.cfg, tmp_path / "alone.pth", tmp_path / "b.safetensors")
    assert (alone.metrics is None) == (noted != content["meta"]["iter"])
    other = export_adapter(
        full_run.cfg, full_run.folder / "epoch_1.pth", tmp_path / "c.safetensors"
    )
    assert other.metrics in (None, full_run.validations[0][1])


def test_half_takes_half(adapter, full_run, scenes, tmp_path):
    (best,) = full_run.folder.glob("best*.pth")
    path = tmp_path / "half.safetensors"
    export_adapter(full_run.cfg, best, path, half=True)
    with safe_open(path, framework="pt") as content:
        header = sum(len(key) + len(text) for key, text in content.metadata().items())
    assert path.stat().st_size - header < 0.6 * (adapter.stat().st_size - header)
    model, exact = load_adapter(path), load_adapter(adapter)
    for (name, value), expected in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert value.dtype == torch.float32
        assert torch.allclose(value, expected, rtol=1e-3, atol=1e-6), name
    for (name, value), expected in zip(model.named_buffers(), exact.buffers(), strict=True):
        assert torch.equal(value, expected), name
    with torch.no_grad():
        logits, expected = model(IMAGES), exact(IMAGES)
    for task, values in expected.items():
        assert not torch.equal(logits[task], values)
        assert (logits[task] - values).abs().max() < 2e-3 * values.abs().max(), task
    content = read_checkpoint(str(best))
    content["state_dict"]["heads.semseg.predict.bias"][0] = 1e5
    torch.save(to_plain(content), tmp_path / "large.pth")
    with pytest.raises(InputError, match="heads.semseg.predict.bias has values beyond float16's"):
        export_adapter(full_run.cfg, tmp_path / "large.pth", tmp_path / "no.safetensors", half=True)
    assert not (tmp_path / "no.safetensors").exists()


def test_notes_come_along(full_run, run_tool, tmp_path):
    config, checkpoint = str(tmp_path / "config.py"), str(full_run.folder / "epoch_1.pth")
    full_run.cfg.dump(config)
    path, notes = tmp_path / "a.safetensors", dict(license="research use, a = b", data="scenes")
    given = [word for note in notes.items() for word in ("--note", *note)]
    run_tool("tools/model_converters/export_adapter.py", config, checkpoint, str(path), *given)
    assert read_adapter(path).notes == notes
    edit_tasks(path, tmp_path / "b.safetensors", ["normals"])
    assert read_adapter(tmp_path / "b.safetensors").notes == notes
    merge_adapter(path, tmp_path / "c.pth")
    assert read_checkpoint(str(tmp_path / "c.pth"))["meta"]["notes"] == notes


def test_the_backbone_must_be_the_one_of_the_training(adapter, tmp_path):
    state = {key: value.clone() for key, value in read_state_dict(SOURCE).items()}
    save_file(state, tmp_path / "same.safetensors")
    model = load_adapter(adapter, pretrained=str(tmp_path / "same.safetensors"))
    assert model.cfg.model.backbone.pretrained == str(tmp_path / "same.safetensors")
    state["patch_embed.norm.bias"][3] += 1
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(InputError) as caught:
        load_adapter(adapter, pretrained=str(tmp_path / "other.safetensors"))
    assert str(caught.value).startswith(
        f"{adapter} was trained on the frozen backbone of {SOURCE!r}"
    )
    assert f"{str(tmp_path / 'other.safetensors')!r} contains a different one" in str(caught.value)


def rewritten(adapter, path, **changes):
    """A copy of an adapter file with other metadata and no checksum; None removes an entry."""
    with safe_open(adapter, framework="pt") as content:
        metadata = {**content.metadata(), "sha256": None, **changes}
    save_file(load_file(adapter), path, {k: v for k, v in metadata.items() if v is not None})
    return path


def test_a_missing_backbone_is_named(adapter, tmp_path):
    path = rewritten(adapter, tmp_path / "moved.safetensors")
    with safe_open(adapter, framework="pt") as content:
        text = {key: content.metadata()[key] for key in ("config", "frozen_encoder")}
    text = {key: value.replace(SOURCE, "gone/encoder.pth") for key, value in text.items()}
    rewritten(adapter, path, **text)
    with pytest.raises(InputError, match="those of 'gone/encoder.pth'"):
        load_adapter(path)
    load_adapter(path, pretrained=SOURCE)
    with pytest.raises(
        InputError, match=f"'{MADE_FILE}' do not exist; run `make weights`"
    ) as caught:
        load_adapter(path, pretrained=MADE_FILE)
    assert len(str(caught.value).splitlines()) == 1
    makefile = (Path(vmt_mm.__file__).parents[1] / "Makefile").read_text()
    assert f"WEIGHTS := {MADE_FILE}" in makefile.splitlines()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(kind=None), "is not an adapter file"),
        (dict(format_version="2"), "has format 2; this vmt_mm reads 1"),
        (dict(config=None), "damaged adapter file, wrong metadata"),
        (dict(config="{]"), "damaged adapter file, wrong metadata"),
        (dict(config="3"), "config and description must be dictionaries"),
        (dict(confih="{}"), r"unknown entries \['confih'\]"),
        (dict(sha256='"0"'), "its content does not match its checksum"),
        (dict(classes="{}"), "damaged adapter file"),
        (dict(frozen_encoder='{"source": 3}'), "damaged file, its meta.frozen_encoder is"),
        (dict(config='{"model": {"type": "Recoder"}}'), "'Recoder' is not registered"),
        (dict(config='{"model": {"type": "ResNet", "depth": 1}}'), "cannot build the model of its"),
        (dict(config='{"model": {"type": "ReLU"}}'), "is not a multi-task model"),
        (dict(config="{}"), "no attribute 'model'"),
        (dict(description='{"encoder": 1}'), "damaged|does not fit"),
    ],
)
def test_errors_in_the_metadata_are_named(adapter, tmp_path, changes, message):
    path = rewritten(adapter, tmp_path / "wrong.safetensors", **changes)
    with pytest.raises(InputError, match=message) as caught:
        load_adapter(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("kind", ["truncated", "garbage", "empty", "missing", "pickle"])
def test_a_damaged_file_is_named(adapter, full_run, tmp_path, kind):
    content, path = adapter.read_bytes(), tmp_path / "damaged.safetensors"
    if kind == "pickle":
        content = (full_run.folder / "epoch_1.pth").read_bytes()
    content = dict(truncated=content[:-100], garbage=b"garbage" * 99, empty=b"").get(kind, content)
    if kind != "missing":
        path.write_bytes(content)
    assert not is_adapter_file(path)
    with pytest.raises(InputError, match=f"{path}"):
        load_adapter(path)


EVIL = [
    "os.system",
    "mmengine.load",
    "subprocess.Popen",
    "this",
    "mmseg.os.system",
    "eval",
]


@pytest.mark.parametrize("kind", EVIL)
@pytest.mark.parametrize("place", ["model", "data_preprocessor", "pipeline"])
def test_no_function_of_another_module_is_called(adapter, tmp_path, monkeypatch, kind, place):
    call = dict(type=kind, command=f"touch {tmp_path}/it-ran")
    model = dict(type="MultiTaskSegmentor", data_preprocessor=call)
    content = dict(
        model=dict(model=call),
        data_preprocessor=dict(model=model),
        pipeline=dict(model={}, test_pipeline=[dict(type="Resize"), call]),
    )[place]
    path = rewritten(adapter, tmp_path / "evil.safetensors", config=json.dumps(content))
    monkeypatch.setattr("vmt_mm.loading.model.MODELS.build", lambda cfg: pytest.fail("was built"))
    with pytest.raises(InputError, match=f"type '{kind}' is not registered"):
        load_adapter(path)
    assert not (tmp_path / "it-ran").exists()


def test_classes_of_the_ecosystem_may_be_named():
    kinds = [
        "ReLU",
        "mmseg.FCNHead",
        "mmengine.Normal",
        "mmpretrain.LinearClsHead",
        "vmt_mm.MLPHead",
    ]
    check_types(dict(model=[dict(type=kind) for kind in kinds]), "file")
    with pytest.raises(InputError, match=r"file: model.head._scope_ must be one of .* got 'os'"):
        check_types(dict(model=dict(head=dict(type="ReLU", _scope_="os"))), "file")
    with pytest.raises(InputError, match="model.head.type 'MLPHaed' .* did you mean 'MLPHead'"):
        check_types(dict(model=dict(head=dict(type="MLPHaed"))), "file")


def test_configs_survive_json(scenes, tmp_path):
    content = dict(a=(1, [2.5, (None, True)]), b={1: "x", (2, 3): dict(c="y")}, d=float("inf"))
    found = from_json(json.loads(json.dumps(to_json(content, "config"))))
    assert found == content
    assert isinstance(found["a"][1][1], tuple)
    with pytest.raises(InputError, match=r"config.a\[0\] is .*can store only plain values"):
        to_json(dict(a=[{1, 2}]), "config")
    # classes are written by name
    cfg = config(scenes, {"model.tasks.semseg.type": Segmentation})
    _, state = trained(cfg)
    torch.save(state, tmp_path / "full.pth")
    export_adapter(cfg, tmp_path / "full.pth", tmp_path / "a.safetensors")
    assert load_adapter(tmp_path / "a.safetensors").cfg.model.tasks.semseg.type == "Segmentation"


def test_a_backbone_that_no_file_has_is_in_the_adapter_file(scenes, tmp_path):
    random = {"model.backbone.pretrained": None, "model.backbone.allow_random_backbone": True}
    cfg = config(scenes, random)
    model, state = trained(cfg)
    torch.save(state, tmp_path / "full.pth")
    for source in (None, SOURCE):  # SOURCE has another backbone than the checkpoint
        cfg.model.backbone.pretrained = source
        adapter = export_adapter(cfg, tmp_path / "full.pth", tmp_path / "a.safetensors")
        assert frozen_keys(model) < adapter.tensors.keys() and adapter.frozen["source"] is None
        found = load_adapter(tmp_path / "a.safetensors")
        for key, value in model.state_dict().items():
            assert torch.equal(found.state_dict()[key], value), key
    with pytest.raises(InputError, match=r"must end with .safetensors"):
        export_adapter(cfg, tmp_path / "full.pth", tmp_path / "a.pth")


def test_a_run_takes_adapter_and_merged_checkpoint(small_run, adapter, full_run, tmp_path):
    merge_adapter(adapter, tmp_path / "merged.pth")
    content = read_checkpoint(str(tmp_path / "merged.pth"))
    assert content["state_dict"].keys() == full_run.model.state_dict().keys()
    best = max(full_run.validations, key=lambda v: v[1]["semseg/mIoU"])[1]
    assert small_run({"load_from": str(adapter)}).test() == best
    gone = {"model.backbone.pretrained": "gone.pth"}
    assert small_run({"load_from": str(tmp_path / "merged.pth"), **gone}).test() == best
    with pytest.raises(InputError, match=r"must end with .pth"):
        merge_adapter(adapter, tmp_path / "merged.safetensors")
    other = {"load_from": str(adapter), "model.backbone.peft.gate": 0.25}
    with pytest.raises(InputError, match=rf"{adapter} does not fit the config: peft.gate: 0.5"):
        small_run(other).test()
    with pytest.raises(InputError, match="cannot be resumed"):
        small_run({"load_from": str(adapter), "resume": True}).train()
