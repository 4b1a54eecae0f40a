"""The tools that turn checkpoints into adapters, full checkpoints and backbones."""

import re

import pytest
import torch
from commands import ROOT
from methods import VIT
from mmpretrain.models import VisionTransformer
from safetensors.torch import load_file, save_file

from vmt_mm.checkpoints.files import read_checkpoint
from vmt_mm.loading.adapters import load_adapter
from vmt_mm.models.backbones.pretrained import locate, read_state_dict
from vmt_mm.registry import MODELS

SOURCE = "vmt_mm://swin_nano"


@pytest.fixture
def tool(run_tool):
    """Run a tool, check its exit status, and return its output."""

    def call(name, *arguments, code=0):
        return run_tool(f"tools/model_converters/{name}.py", *arguments, code=code).text

    return call


@pytest.fixture(scope="module")
def config(full_run, tmp_path_factory):
    """The small training's config as a file."""
    path = tmp_path_factory.mktemp("config") / "small.py"
    text = f"_base_ = {str(ROOT / 'configs/vmt/vmt_swin-nano_shapes.py')!r}\n"
    path.write_text(f"{text}model = dict(head=dict(channels=16))\n")
    return path


def test_adapter_and_merged_checkpoint(tool, config, full_run, tmp_path):
    (best,) = full_run.folder.glob("best*.pth")
    adapter, half = tmp_path / "adapter.safetensors", tmp_path / "half.safetensors"
    output = tool("export_adapter", config, best, adapter)
    assert re.search(rf"wrote [\d,]+ values, {adapter.stat().st_size:,} bytes: {adapter}", output)
    assert "tasks: semseg, human_parts, saliency, normals" in output
    assert re.search(rf"frozen backbone: {SOURCE}, SHA-256 [0-9a-f]{{64}}", output)
    assert "metrics: unknown" not in output
    tool("export_adapter", config, best, half, "--half")
    assert half.stat().st_size < 0.7 * adapter.stat().st_size
    tool("merge", adapter, "--pretrained", locate(SOURCE), tmp_path / "merged.pth")
    state = read_checkpoint(str(tmp_path / "merged.pth"))["state_dict"]
    expected = load_adapter(adapter).state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_wrong_input_of_the_adapters_tools(tool, config, full_run, tmp_path):
    last, out = full_run.folder / "epoch_3.pth", tmp_path / "out.safetensors"
    for command, message in (
        (("export_adapter", "none.py", last, out), "none.py: no such config file"),
        (("export_adapter", config, "none.pth", out), "none.pth: no such checkpoint"),
        (("export_adapter", config, last, tmp_path / "out.pth"), "must end with .safetensors"),
        (("export_adapter", config, locate(SOURCE), out), "not a checkpoint of a multi-task model"),
        (("merge", locate(SOURCE), tmp_path / "out.pth"), "is not an adapter file"),
        (("merge", "none.safetensors", tmp_path / "out.pth"), "no such adapter file"),
    ):
        output = tool(*command, code=1)
        assert re.search(rf"^error: .*{message}", output, re.MULTILINE), output
    # the checkpoint names its backbone, whatever the config says
    tool("export_adapter", config, last, out, "--cfg-options", "pretrained=gone.pth")
    assert load_adapter(out).cfg.model.backbone.pretrained == SOURCE
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.safetensors"]


def test_the_encoder_of_a_swin(tool, full_run, config, tmp_path):
    out = tmp_path / "encoder.safetensors"
    output = tool("export_encoder", full_run.folder / "epoch_1.pth", out, code=1)
    assert f"contains no backbone: it uses the unchanged backbone of '{SOURCE}'" in output
    adapter = tmp_path / "adapter.safetensors"
    tool("export_adapter", config, full_run.folder / "epoch_1.pth", adapter)
    tool("merge", adapter, tmp_path / "merged.pth")
    for options in ((), ("--float32",)):
        tool("export_encoder", tmp_path / "merged.pth", out, *options)
        found, expected = load_file(out), read_state_dict(SOURCE)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(found[key], value.to(found[key].dtype)), key
        assert {v.dtype for v in found.values()} == {torch.float32 if options else torch.float16}
    backbone = MODELS.build(
        dict(type="MultiTaskSwin", arch="nano", tasks=["a"], pretrained=str(out))
    )
    backbone.init_weights()
    assert torch.equal(backbone.patch_embed.norm.bias, expected["patch_embed.norm.bias"])


def test_the_encoder_of_a_vit(tool, tmp_path):
    peft = dict(type="LoRA", rank=2)
    options = {key: value for key, value in VIT.config.items() if key != "type"}
    encoder = MODELS.build(dict(type="MultiTaskViT", tasks=["a"], peft=peft, **options))
    state = {f"backbone.{key}": value for key, value in encoder.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / "checkpoint.pth")
    out = tmp_path / "encoder.safetensors"
    output = tool("export_encoder", tmp_path / "checkpoint.pth", out, "--float32")
    assert "skipped 10 tensors of the PEFT method, such as layers.0.attn.qkv.lora_A" in output
    found, expected = load_file(out), VIT.make_stock().state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, state[f"backbone.{key}"]) for key, value in found.items())


@pytest.mark.parametrize(
    ("name", "peft"),
    [
        ("vit_small_plus_patch16_dinov3", dict(type="LoRA", rank=2)),
        ("eva02_base_patch14_224", dict(type="LoRA", rank=2)),
        ("eva02_small_patch14_224", dict(type="FullFineTuning")),
        ("vit_base_patch16_clip_224", dict(type="VMTAdapter")),
    ],
)
def test_the_encoder_of_a_model_of_timm(name, peft, tool, tmp_path):
    pytest.importorskip("timm")
    options = dict(type="MultiTaskTimmViT", model_name=name, tasks=["a"], peft=peft)
    options["model_kwargs"] = dict(embed_dim=24, depth=4, num_heads=3)
    encoder = MODELS.build(options)
    state = {f"backbone.{key}": value for key, value in encoder.state_dict().items()}
    torch.save(dict(state_dict={**state, "heads.a.weight": torch.ones(1)}), tmp_path / "last.pth")
    out = tmp_path / "encoder.safetensors"
    output = tool("export_encoder", tmp_path / "last.pth", out, "--float32")
    assert f"skipped {len(encoder.added_keys)} tensors" in output or not encoder.added_keys
    found = load_file(out)
    assert found.keys() == encoder.state_dict().keys() - encoder.added_keys
    assert all(torch.equal(value, state[f"backbone.{key}"]) for key, value in found.items())
    MODELS.build({**options, "pretrained": str(out)}).init_weights()


def test_import_of_a_swin(tool, tmp_path):
    own = read_state_dict(SOURCE)
    names = [("stages.", "layers."), (".attn.w_msa.", ".attn."), (".ffn.layers.0.0.", ".mlp.fc1."),
             (".ffn.layers.1.", ".mlp.fc2."), (".projection.", ".proj.")]  # fmt: skip
    official = {}
    for key, value in own.items():
        if "downsample" in key:  # from nn.Unfold's order to that of concatenation
            value = value.unflatten(-1, (-1, 4)).transpose(-1, -2)[..., [0, 2, 1, 3], :].flatten(-2)
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        official[key] = value.contiguous()
    official["head.weight"] = torch.zeros(10, 160)
    torch.save(dict(model=official), tmp_path / "official.pth")
    out = tmp_path / "swin.safetensors"
    output = tool("import_swin", tmp_path / "official.pth", out, "--arch", "nano")
    assert "official.pth: official keys" in output
    assert f"model.backbone=dict(type='MultiTaskSwin', arch='nano'), pretrained='{out}'" in output
    found = load_file(out)
    assert found.keys() == own.keys()
    assert all(torch.equal(found[key], value) for key, value in own.items())
    assert "arch='nano'" in tool("import_swin", tmp_path / "official.pth", out)
    missing = dict(official)
    del missing["layers.0.blocks.0.attn.qkv.bias"]
    torch.save(dict(model=missing), tmp_path / "missing.pth")
    for name, arch, message in (
        ("official", "tiny", "official.pth does not match 'tiny': it has {'embed_dims': 20"),
        ("official", "huge", "--arch must be one of .* got 'huge'"),
        ("missing", "nano", "1 missing key.s.: stages.0.blocks.0.attn.w_msa.qkv.bias"),
    ):
        output = tool("import_swin", tmp_path / f"{name}.pth", tmp_path / "no.safetensors",
                      "--arch", arch, code=1)  # fmt: skip
        assert re.search(f"^error: .*{message}", output, re.MULTILINE), output
    assert "must end with" in tool("import_swin", tmp_path / "official.pth", "a.pth", code=1)
    assert not (tmp_path / "no.safetensors").exists()


def test_import_of_a_vit(tool, tmp_path, monkeypatch):
    sizes = dict(embed_dims=8, num_layers=4, num_heads=2, feedforward_channels=16)
    monkeypatch.setitem(VisionTransformer.arch_zoo, "little", sizes)
    model = VisionTransformer("little", img_size=40, patch_size=8, layer_scale_init_value=0.1)
    own = model.state_dict()
    names = [(".projection.", ".proj."), (".attn.gamma1.weight", ".ls1.gamma"),
             (".ffn.gamma2.weight", ".ls2.gamma"), (".ffn.layers.0.0.", ".mlp.fc1."),
             (".ffn.layers.1.", ".mlp.fc2."), (".ln1.", ".norm1."), (".ln2.", ".norm2."),
             ("ln1.", "norm."), ("layers.", "blocks.")]  # fmt: skip
    dinov2 = {"mask_token": torch.zeros(1, 8)}
    for key, value in own.items():
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        dinov2[key] = value
    save_file(dinov2, tmp_path / "dinov2.safetensors")
    out = tmp_path / "vit.safetensors"
    output = tool("import_vit", tmp_path / "dinov2.safetensors", out)
    assert "dinov2.safetensors: dinov2 keys" in output
    assert (
        "model.backbone=dict(type='MultiTaskViT', arch='little', img_size=40, patch_size=8, "
        "layer_scale_init_value=1e-05)"
    ) in output
    found = load_file(out)
    assert found.keys() == own.keys()
    assert all(torch.equal(found[key], value) for key, value in own.items())
    output = tool("import_vit", tmp_path / "dinov2.safetensors", out, "--arch", "base", code=1)
    assert re.search(r"^error: .* does not match 'base': .*which match \['little'\]", output, re.M)
    assert "is not a ViT checkpoint" in tool("import_vit", locate(SOURCE), out, code=1)
    encoder = MODELS.build(dict(type="MultiTaskViT", tasks=["a"], pretrained=str(out), img_size=40,
                                patch_size=8, layer_scale_init_value=0.1, arch=sizes))  # fmt: skip
    encoder.init_weights()
    assert all(torch.equal(encoder.state_dict()[key], value) for key, value in own.items())
