"""Exported models are correct at other batch and image sizes, or not written."""

import copy
import json
import re
import sys

import numpy as np
import pytest
import torch
from commands import CONFIG, ROOT
from methods import ENCODERS, METHODS, TASKS, scatter

from vmt_mm.analysis.experiment import load_experiments
from vmt_mm.apis import init_model, load_config
from vmt_mm.errors import InputError
from vmt_mm.export import (
    DESCRIPTION,
    FORMATS,
    TaskOutputs,
    compare_outputs,
    describe_model,
    example_inputs,
    formats,
    measure_latency,
    write_checked,
)
from vmt_mm.loading.model import describe
from vmt_mm.models.backbones import MultiTaskSwin
from vmt_mm.peft.lora import LoRALinear
from vmt_mm.registry import MODELS
from vmt_mm.utils import compat

TOOL = "tools/model_converters/export_model.py"
#: Few layers of each kind: every layer takes tracing time.
DEPTHS = (2, 1, 1, 1)
SHORT_SWIN = {"model.backbone.depths": DEPTHS}
SHORT_VIT = {
    "model.backbone.arch": dict(
        _delete_=True, embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64
    ),
    "model.backbone.out_indices": (0, 1, 2, 3),
}
VIT_CONFIG = "configs/vmt/vmt_vit-s14_photos.py"
SIDE_CONFIG = "configs/vmt/side_vit-s14_photos.py"
MTLORA_CONFIG = "configs/peers/mtlora-r16_swin-nano_shapes.py"
CONFIGS = {
    CONFIG: SHORT_SWIN,
    VIT_CONFIG: SHORT_VIT,
    "configs/baselines/multiple_lora_swin-nano_shapes.py": SHORT_SWIN,
    MTLORA_CONFIG: {**SHORT_SWIN, "model.backbone.taps": "merged"},
    SIDE_CONFIG: SHORT_VIT,
}


def build(config):
    options = copy.deepcopy(CONFIGS.get(config))  # reading empties them
    (model,) = load_experiments([config], options)[0].build_models()
    model.backbone.init_weights()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # parameters that start at zero must have an effect
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model.eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A config and its checkpoint."""
    folder = tmp_path_factory.mktemp("export")
    config, checkpoint = folder / "config.py", folder / "model.pth"
    config.write_text(
        f"_base_ = {str(ROOT / CONFIG)!r}\nmodel = dict(backbone=dict(depths={DEPTHS}))\n"
    )
    model = build(str(config))
    meta = dict(vmt_mm=describe(model, load_config(config).model))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), checkpoint)
    return config, checkpoint


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("size", [(64, 64), (53, 81)])
def test_the_traced_model_is_the_same_function(config, size, monkeypatch):
    wrapped, images = TaskOutputs(build(config)).eval(), torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = wrapped(images)
        for module in ("models.backbones.swin", "utils.compat"):
            monkeypatch.setattr(f"vmt_mm.{module}.is_exporting", lambda: True)
        given = wrapped(images)
    for a, b in zip(given, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.fixture
def onnx():
    pytest.importorskip("onnxruntime", reason="needs the extra `export`")
    return pytest.importorskip("onnx", reason="needs the extra `export`")


def test_onnx_holds_at_every_batch_and_size(run_tool, onnx, trained, tmp_path):
    out = tmp_path / "model.onnx"
    text = run_tool(
        TOOL, *trained, "--out", out, "--dynamic", "--tasks", "normals", "semseg",
        "--size", 64, 48, "--latency", 1,
    ).text  # fmt: skip
    assert "compared on 1x3x64x48, 3x3x64x48, 1x3x109x32, 2x3x32x112" in text
    assert "medians of 1 interleaved rounds" in text
    description = json.loads(
        {p.key: p.value for p in onnx.load(str(out)).metadata_props}[DESCRIPTION]
    )
    assert list(description["tasks"]) == ["normals", "semseg"]
    assert description["input"] == dict(name="images", size=[64, 48], dynamic="all", channels="RGB")
    assert description["mean"] == [123.675, 116.28, 103.53]
    semseg = description["tasks"]["semseg"]
    assert len(semseg["classes"]) == len(semseg["palette"]) == semseg["channels"] == 8
    # by onnxruntime alone, with a size and batch that no check uses
    import onnxruntime

    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(5, 3, 75, 100)).astype(np.float32)
    wrapped = TaskOutputs(init_model(*trained, "cpu"), ["normals", "semseg"])
    with torch.no_grad():
        expected = wrapped(torch.from_numpy(images))
    for given, value in zip(session.run(None, {"images": images}), expected, strict=True):
        np.testing.assert_allclose(given, value, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def trained_with(tmp_path_factory):
    """A config with a method and its checkpoint."""

    def make(**peft):
        folder = tmp_path_factory.mktemp("merge")
        config, checkpoint = folder / "config.py", folder / "model.pth"
        peft["_delete_"] = True
        backbone = f"dict(depths={DEPTHS}, peft={peft!r})"
        config.write_text(f"_base_ = {str(ROOT / CONFIG)!r}\nmodel = dict(backbone={backbone})\n")
        model = build(str(config))
        meta = dict(vmt_mm=describe(model, load_config(config).model))
        torch.save(dict(meta=meta, state_dict=model.state_dict()), checkpoint)
        return config, checkpoint

    return make


@pytest.mark.parametrize(
    ("peft", "tasks", "message"),
    [
        (dict(type="LoRA", use_dora=True, targets=["k", "fc2"]), [], "nothing of LoRA remains"),
        (dict(type="PerTask", method=dict(type="LoRA")), ["normals"], "nothing of PerTask remains"),
        (dict(type="PerTask", method=dict(type="LoRA"), from_stage=3),
         ["normals", "semseg"], "a part of PerTask remains; these tasks differ"),
        (dict(type="Adapter"), ["semseg"], "a part of Adapter remains"),
    ],
    ids=["DoRA", "PerTask", "PerTask-late", "Adapter"],
)  # fmt: skip
def test_a_merged_file_equals_the_model(
    run_tool, onnx, trained_with, tmp_path, peft, tasks, message
):
    out, files = tmp_path / "model.onnx", trained_with(**peft)
    chosen = ["--tasks", *tasks] if tasks else []
    arguments = [TOOL, *files, "--out", out, "--size", 64, 48, *chosen]
    text = run_tool(*arguments, "--merge", "--latency", 1).text
    assert message in text
    assert "PyTorch, merged" in text
    products = [n for n in onnx.load(str(out)).graph.node if n.op_type in ("MatMul", "Gemm")]
    run_tool(*arguments)
    before = [n for n in onnx.load(str(out)).graph.node if n.op_type in ("MatMul", "Gemm")]
    merged = "LoRA" in str(peft)
    assert len(products) < len(before) if merged else len(products) == len(before)


def test_a_file_that_differs_from_the_model_before_merging_is_not_written(
    run_tool, onnx, trained_with, tmp_path, monkeypatch
):
    monkeypatch.setattr(LoRALinear, "updated_weight", lambda self: self.weight)
    arguments = (*trained_with(type="LoRA"), "--out", tmp_path / "m.onnx", "--size", 64, 48)
    text = run_tool(TOOL, *arguments, "--merge", code=1).text
    assert "not written, since the exported model differs from PyTorch" in text


@pytest.mark.parametrize(
    ("config", "tasks"),
    [
        (VIT_CONFIG, ["saliency"]),
        (SIDE_CONFIG, ["saliency"]),
        (MTLORA_CONFIG, ["saliency", "normals"]),
    ],
)
def test_onnx_holds_at_other_sizes(onnx, config, tasks, tmp_path):
    """Of a ViT, of a branch next to it, and of a method with a stream per task."""
    wrapped = TaskOutputs(build(config), tasks).eval().requires_grad_(False)
    example, inputs = example_inputs((56, 70), "all")
    with torch.no_grad():
        FORMATS["onnx"].write(wrapped, example, "all", {}, tmp_path / "vit.onnx")
    _, faults = compare_outputs(wrapped, FORMATS["onnx"].load(tmp_path / "vit.onnx"), inputs)
    assert faults == []


@pytest.mark.skipif("eva" not in ENCODERS, reason="needs the extra `timm`")
@pytest.mark.parametrize(("encoder", "dynamic"), [("dinov3", "all"), ("eva", "all"), ("eva", None)])
def test_onnx_of_rotary_and_interpolated_positions(onnx, tmp_path, encoder, dynamic):
    wrapped = TaskOutputs(build_small(encoder, "VMTAdapter", HEADS["mlp"]))
    wrapped = wrapped.eval().requires_grad_(False)
    example, inputs = example_inputs((56, 70), dynamic)
    with torch.no_grad():
        FORMATS["onnx"].write(wrapped, example, dynamic, {}, tmp_path / "vit.onnx")
    run = FORMATS["onnx"].load(tmp_path / "vit.onnx")
    _, faults = compare_outputs(wrapped, run, inputs, limit=1e-4)
    assert faults == []


HEADS = dict(
    mlp=dict(type="MLPHead", channels=8),
    hrnet=dict(type="HRNetHead"),
    dpt=dict(type="DPTHead", channels=8),
    fcn=dict(type="FCNHead", channels=8, num_convs=1, in_index=0, norm_cfg=dict(type="BN")),
)


@pytest.mark.parametrize(
    ("encoder", "method", "head", "dynamic"),
    [
        ("swin", "VMTAdapterLite", "mlp", "all"),  # parallel branches, factored weights
        ("swin", "PerTask-LoRA", "fcn", None),  # wrapped layers, one pass per task
        ("vit", "Hyperformer", "hrnet", "all"),  # generated weights, maps on another grid
        ("vit", "Mona", "mlp", "all"),  # convolutions with computed weights
        ("swin", "SideVMT", "mlp", "all"),  # sums of maps, merging of odd sizes
        ("vit", "DecodersOnly", "dpt", "all"),  # several steps of upsampling
    ],
)
def test_the_tools_of_onnxruntime_take_the_file(
    onnx, tmp_path, monkeypatch, encoder, method, head, dynamic
):
    monkeypatch.chdir(tmp_path)  # which skip a model whose shapes they cannot infer
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from onnxruntime.transformers.float16 import convert_float_to_float16

    plain, path = str(tmp_path / "plain.onnx"), str(tmp_path / "other.onnx")
    example, inputs = example_inputs((64, 64), dynamic)
    wrapped = TaskOutputs(build_small(encoder, method, HEADS[head])).eval().requires_grad_(False)
    with torch.no_grad():
        FORMATS["onnx"].write(wrapped, example, dynamic, {}, plain)
    model = onnx.load(plain)
    weights = {tensor.name for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions
    assert all(node.input[1] in weights for node in convolutions)
    declared = {
        output.name: [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim]
        for output in model.graph.output
    }
    sides = ["height", "width"] if dynamic else [64, 64]
    batch = "batch" if dynamic else 1
    assert declared == dict(semseg=[batch, 4, *sides], normals=[batch, 3, *sides])

    def compare(limit):
        _, faults = compare_outputs(wrapped, FORMATS["onnx"].load(path), inputs, limit=limit)
        assert faults == []

    quant_pre_process(plain, path)  # runs shape inference, which finds wrong sizes
    compare(1e-4)
    quantize_dynamic(path, path, weight_type=QuantType.QUInt8)
    compare(0.1)
    quantize_dynamic(plain, path, weight_type=QuantType.QUInt8)
    compare(0.1)
    onnx.save(convert_float_to_float16(model, keep_io_types=True), path)
    compare(0.01)


def test_a_part_without_counterpart_in_onnx_is_one_error(onnx, tmp_path, capfd):
    head = dict(type="PSPHead", channels=8, in_index=3, norm_cfg=dict(type="BN"))
    wrapped = TaskOutputs(build_small("swin", "DecodersOnly", head)).eval()
    path, log = tmp_path / "model.onnx", getattr(torch._C, "_jit_onnx_log", None)
    with pytest.raises(
        InputError, match=r"cannot be exported to ONNX.*adaptive_avg_pool2d"
    ) as error:
        write_checked(FORMATS["onnx"], wrapped, example_inputs((64, 64), "all"), "all", {}, path)
    assert len(str(error.value)) < 300 and "use --dynamic batch, or omit it" in str(error.value)
    assert "graph(" not in "".join(capfd.readouterr())
    assert getattr(torch._C, "_jit_onnx_log", None) is log
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_onnxruntime_cannot_load_is_one_error(onnx, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match="^onnxruntime cannot load .*Protobuf parsing failed"):
        FORMATS["onnx"].load(tmp_path / "model.onnx")


def build_small(encoder, method, head, **options):
    torch.manual_seed(0)
    config, peft = ENCODERS[encoder].config, METHODS[encoder][method].peft
    backbone = {**config, "allow_random_backbone": True, "peft": peft, **options}
    model = MODELS.build(dict(type="MultiTaskSegmentor", tasks=TASKS, backbone=backbone, head=head))
    model.backbone.init_weights()
    return scatter(model).eval()


def test_a_model_that_a_tracer_gets_wrong_leaves_no_file(
    run_tool, onnx, trained, tmp_path, monkeypatch
):
    """Example: mmseg's original Swin, whose batch and size become constants."""
    monkeypatch.setattr(MultiTaskSwin, "attend", lambda self, block, x, hw: block.attn(x, hw))
    out = tmp_path / "model.onnx"
    text = run_tool(
        TOOL, *trained, "--out", out, "--size", 32, 32, "--dynamic", "batch",
        "--tasks", "saliency", code=1,
    ).text  # fmt: skip
    assert "not written, since the exported model differs from PyTorch" in text
    assert "perhaps a layer fixes the traced size: omit --dynamic" in text  # batch was given
    assert list(tmp_path.iterdir()) == []


def test_description_of_a_model_in_its_file():
    """Names as found by ``init_model``; mean, std and channels as in the preprocessor."""
    preprocessor = dict(
        type="MultiTaskDataPreprocessor", mean=[1 / 3], std=[1 / 255], bgr_to_rgb=True
    )
    (model,) = load_experiments([CONFIG])[0].build_models()
    model.data_preprocessor = MODELS.build(preprocessor)
    names = dict(semseg=dict(classes=("sky", "sea"), palette=[[0, 0, 0], [1, 1, 1]]))
    about = describe_model(TaskOutputs(model, ["semseg"]), names, (64, 48), None)
    assert about["tasks"]["semseg"]["classes"] == ["sky", "sea"]
    assert about["input"]["channels"] == "RGB"
    np.testing.assert_allclose(about["mean"], [1 / 3] * 3, rtol=1e-6)
    np.testing.assert_allclose(about["std"], [1 / 255] * 3, rtol=1e-6)


def test_images_of_four_channels(onnx, tmp_path):
    model = build_small("swin", "DecodersOnly", HEADS["mlp"], in_channels=4)
    wrapped = TaskOutputs(model, ["normals"]).eval()
    example, inputs = example_inputs((64, 64), None, wrapped.image_channels)
    assert describe_model(wrapped, {}, (64, 64), None)["input"]["channels"] == "BGR and 1 as read"
    path = tmp_path / "model.onnx"
    write_checked(FORMATS["onnx"], wrapped, (example, inputs), None, {}, path)
    (declared,) = onnx.load(str(path)).graph.input
    assert declared.type.tensor_type.shape.dim[1].dim_value == 4


@pytest.mark.skipif(not compat.has("2.7"), reason="PyTorch before 2.7 cannot export the model so")
def test_a_program_of_torch_export(run_tool, trained, tmp_path):
    out = tmp_path / "model.pt2"
    run_tool(
        TOOL, *trained, "--format", "torch-export", "--out", out,
        "--size", 32, 32, "--outputs", "predictions", "--tasks", "semseg",
    )  # fmt: skip
    files = {DESCRIPTION: ""}
    program = torch.export.load(str(out), extra_files=files)
    (classes,) = program.module()(torch.randn(1, 3, 32, 32))
    assert classes.dtype == torch.uint8
    assert classes.shape == (1, 1, 32, 32)
    assert json.loads(files[DESCRIPTION])["output"] == "predictions"


def test_outputs_of_other_values_or_shapes_are_faults():
    wrapped = TaskOutputs(build(CONFIG), ["saliency"])
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        (right,) = wrapped(images)
    near, far = right * (1 + 5e-5), right * (1 + 5e-4)
    for given, faults in [
        (right, 0), (near, 0), (far, 1), (right[..., :-1], 1), (right * float("nan"), 1)
    ]:  # fmt: skip
        assert len(compare_outputs(wrapped, lambda _, x=given: [x], [images])[1]) == faults


def test_latency_is_measured_in_turn():
    calls = []
    runs = {name: lambda _, name=name: calls.append(name) for name in "ab"}
    assert set(measure_latency(runs, torch.zeros(1), 3)) == {"a", "b"}
    assert calls == ["a", "b"] * 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "model.pt2"], "--out: onnx files end with .onnx"),
        (["--out", "m.pt2", "--format", "torch-export", "--dynamic"], "--dynamic batch or"),
        (
            ["--out", "m.pt2", "--format", "torch-export", "--tasks", "flow"],
            "unknown task",
        ),
        (["--out", "m.pt2", "--format", "torch-export", "--size", "0", "8"], "--size must be"),
        (["--out", "m.pt2", "--format", "torch-export", "--latency", "0"], "--latency must be"),
    ],
)
def test_wrong_arguments_are_one_message(
    run_tool, arguments, message, trained, monkeypatch, tmp_path
):
    monkeypatch.setattr(formats, "_import", lambda name: None)
    monkeypatch.setattr(compat, "need", lambda *_: None)
    arguments[1] = str(tmp_path / arguments[1])
    text = run_tool(TOOL, *trained, *arguments, code=1).text
    assert re.search(message, text), text
    assert list(tmp_path.iterdir()) == []


def test_older_pytorch_cannot_export_programs(run_tool, trained, monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "__version__", "2.6.0+cpu")
    arguments = ("--format", "torch-export", "--out", tmp_path / "model.pt2")
    text = run_tool(TOOL, *trained, *arguments, code=1).text
    assert re.search(r"^error: --format torch-export.* needs PyTorch 2\.7 .*2\.6\.0", text, re.M)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(run_tool, trained, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", sys)
    text = run_tool(TOOL, *trained, "--out", tmp_path / "m.onnx", code=1).text
    assert "error: ONNX export needs onnxruntime: run pip install 'vmt_mm[export]'" in text
