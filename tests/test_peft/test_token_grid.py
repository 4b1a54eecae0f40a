"""Methods know where the patches are: their grid, and the class and register tokens before it.

The methods of the package treat all tokens alike, so no other test would notice a wrong grid.
"""

import pytest
import torch
from methods import ENCODERS, TASKS, ConvolvesPatches
from naive import run_plain, run_stock

from vmt_mm.export import FORMATS, TaskOutputs, compare_outputs, example_inputs
from vmt_mm.peft import TokenGrid
from vmt_mm.registry import MODELS
from vmt_mm.utils import compat
from vmt_mm.utils.feature_maps import tensors_of

SIZE = (61, 83)  # of the images; no multiple of a patch or of a window
#: Backbone -> grid of each block, for images of ``SIZE``.
GRIDS = dict(
    swin=[(16, 21, 0)] * 2 + [(8, 11, 0), (4, 6, 0), (2, 3, 0)],
    vit=[(9, 12, 1)] * 5,
    dinov3=[(9, 12, 5)] * 5,
)
NAMES = [
    pytest.param(
        name, marks=pytest.mark.skipif(name not in ENCODERS, reason="needs the extra `timm`")
    )
    for name in GRIDS
]


class ConvolvesFeatures(ConvolvesPatches):
    """Also convolves the features of each stage, with weights of its first block."""

    places = (*ConvolvesPatches.places, "features")

    def attach(self, backbone):
        super().attach(backbone)
        stages = [block.stage for block in backbone.block_specs]
        self.first = [stages.index(stage) for stage in range(4)]

    def task_features(self, stage, feature, kept, tasks, grid):
        assert isinstance(grid, TokenGrid)
        weight = self.blocks[self.first[stage]]["features"]
        return dict.fromkeys(tasks, self.convolve(feature, weight, grid))


def build(name):
    torch.manual_seed(0)
    options = dict(tasks=list(TASKS), allow_random_backbone=True, peft=dict(type=ConvolvesFeatures))
    backbone = MODELS.build({**ENCODERS[name].config, **options})
    backbone.init_weights()
    return backbone.eval()


def convolve_naively(x, weight, grid):
    """Sum nine shifted copies of the patches (B, L, d), which lie row by row after the prefix."""
    height, width, prefix = grid
    out = x.clone()
    for row in range(height):
        for column in range(width):
            total = torch.zeros_like(x[:, 0])
            for i in range(3):
                for j in range(3):
                    above, left = row + i - 1, column + j - 1
                    if 0 <= above < height and 0 <= left < width:
                        total += weight[:, i, j] * x[:, prefix + above * width + left]
            out[:, prefix + row * width + column] = total
    return out


@pytest.mark.parametrize("name", NAMES)
def test_a_convolution_of_the_patches(name):
    backbone, grids = build(name).double(), GRIDS[name]
    stock = ENCODERS[name].make_stock().double()
    stock.eval()  # returns None in mmseg
    stock.load_state_dict({k: backbone.state_dict()[k] for k in ENCODERS[name].keys})
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64)

    def change(place):
        return lambda i, x: convolve_naively(x, backbone.peft.blocks[i][place], grids[i])

    with torch.no_grad():
        features = backbone(images, lazy=True)
        if name == "swin":
            hooks = [change(place) for place in ConvolvesPatches.places]
            levels = [
                level.flatten(2).transpose(1, 2) for level in run_stock(stock, images, *hooks)
            ]
        else:
            levels = run_plain(stock, images, change, grids[0][2])
        for level, index in enumerate(backbone.peft.first):
            height, width, _ = grids[index]
            weight = backbone.peft.blocks[index]["features"]
            expected = convolve_naively(levels[level], weight, (height, width, 0))
            expected = expected.transpose(1, 2).unflatten(2, (height, width))
            for task in TASKS:
                torch.testing.assert_close(tensors_of(features[task][level])[0], expected)


@pytest.mark.parametrize("name", NAMES)
def test_activation_checkpointing_changes_nothing(name):
    backbone, images, results = build(name).train(), torch.randn(2, 3, *SIZE), []
    for backbone.with_cp in (False, True):
        backbone.zero_grad()
        sum(level.sin().sum() for maps in backbone(images).values() for level in maps).backward()
        weights = [p for p in backbone.peft.parameters() if p.grad is not None]
        results.append([weight.grad for weight in weights])
    assert len(weights) == 3 * 5 + 4
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.skipif(not compat.has("2.6"), reason="compile_features needs PyTorch 2.6")
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["vit", *(pytest.param(*p.values, marks=[*p.marks, pytest.mark.every_backbone])
              for p in NAMES if p.values != ("vit",))],
)  # fmt: skip
def test_a_compiled_loop_at_two_sizes(name):
    backbone, sizes = build(name), (SIZE, (96, 40))
    images = [torch.randn(1, 3, *size) for size in sizes]
    with torch.no_grad():
        expected = [backbone(x)["semseg"] for x in images]
        backbone.compile_features(backend="eager", dynamic=True)
        for x, levels in zip(images, expected, strict=True):
            for one, two in zip(backbone(x)["semseg"], levels, strict=True):
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_onnx_at_other_sizes(name, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra `export`")
    backbone = dict(ENCODERS[name].config, allow_random_backbone=True)
    backbone["peft"] = dict(type=ConvolvesFeatures)
    head = dict(type="MLPHead", channels=8)
    model = MODELS.build(dict(type="MultiTaskSegmentor", tasks=TASKS, backbone=backbone, head=head))
    model.backbone.init_weights()
    wrapped = TaskOutputs(model, ["normals"]).eval().requires_grad_(False)
    example, inputs = example_inputs((56, 70), "all")
    with torch.no_grad():
        FORMATS["onnx"].write(wrapped, example, "all", {}, tmp_path / "model.onnx")
    _, faults = compare_outputs(wrapped, FORMATS["onnx"].load(tmp_path / "model.onnx"), inputs)
    assert faults == []
