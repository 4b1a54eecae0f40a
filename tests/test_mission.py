"""The standard experiment end to end, in small: PASCAL_MT, a frozen Swin-T, VMT-Adapter.

Raw archive -> converter -> training in four processes with validations -> test -> metrics again,
by another implementation, from the files that the test wrote.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run_process
from raw_pascal import save_context, save_parts, save_png, thing
from recompute import recompute

from vmt_mm.checkpoints.files import read_checkpoint

CONFIGS = dict(
    mlp="configs/vmt/vmt_swin-t_pascal.py", hrnet="configs/vmt/vmt_swin-t_pascal_hrnet.py"
)
TRAIN, VAL = [f"2008_{i:06d}" for i in range(8)], [f"2010_{i:06d}" for i in range(5)]
#: (height, width) of the images.
SIZES = ((48, 64), (64, 48), (56, 56))
WALL, FLOOR, SKY, PERSON, CAT = 440, 158, 360, 15, 8
#: Single-task full fine-tuning in the paper's Table 2.
REFERENCE = (("semseg/mIoU", 67.21), ("human_parts/mIoU", 61.93), ("saliency/mIoU", 62.35),
             ("normals/mErr", 17.97))  # fmt: skip
#: Files store classes exactly; 8 bits move a probability by 1/510, a normal's component by 1/255.
TOLERANCES = {"semseg/mIoU": 1e-9, "human_parts/mIoU": 1e-9, "saliency/mIoU": 0.3,
              "saliency/maxF": 0.3, "normals/mErr": 0.05, "normals/rmse": 0.05}  # fmt: skip


def write_raw(root: Path) -> Path:
    """Write a PASCAL_MT: rooms and skies, most with a person, the others with a cat."""
    rng = np.random.default_rng(0)
    for number, name in enumerate([*TRAIN, *VAL]):
        height, width = size = SIZES[number % len(SIZES)]
        rows, columns = np.mgrid[:height, :width]
        middle = rng.uniform(0.35, 0.65) * width
        person = (abs(columns - middle) < width / 6) & (rows > height / 5)
        sky, floor = columns > 0.8 * width, rows > 0.7 * height
        context = np.where(sky, SKY, np.where(floor, FLOOR, WALL))
        what = CAT if number % 4 == 3 else PERSON

        colours = np.stack([90 * sky, 60 * floor, 120 * person], axis=-1)
        save_png(root / f"JPEGImages/{name}.jpg", colours + rng.integers(0, 60, colours.shape))
        classes = np.where(person, what, 0)  # with ignored outlines, as in VOC
        classes[(abs(abs(columns - middle) - width / 6) < 1) & (rows > height / 5)] = 255
        save_png(root / f"semseg/VOC12/{name}.png", classes, palette=True)
        save_png(root / f"sal_distill/{name}.png", person * 255)
        save_context(root / f"pascal-context/trainval/{name}.mat", context)
        vectors = np.where(floor[..., None], (128, 0, 128), (128, 128, 255))
        save_png(root / f"normals_distill/{name}.png", vectors)
        level = rows / height
        parts = dict(head=level < 0.4, torso=(level > 0.4) & (level < 0.7), lfoot=level > 0.9)
        masks = [(part, (person & where).astype(np.uint8)) for part, where in parts.items()]
        save_parts(root / f"human_parts/{name}.mat", thing(what, *masks, size=size))
    lists = root / "ImageSets/Context"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(TRAIN))
    (lists / "val.txt").write_text("\n".join(VAL))
    return root


def official_swin_tiny() -> dict[str, torch.Tensor]:
    """Random tensors with the names and shapes of ``swin_tiny_patch4_window7_224.pth``."""
    state = {}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        norm = len(shape) == 1
        state[f"{name}.weight"] = torch.ones(shape) if norm else 0.05 * torch.randn(shape)
        if bias:
            state[f"{name}.bias"] = 0.05 * torch.randn(shape[0])

    add("patch_embed.proj", 96, 3, 4, 4)
    add("patch_embed.norm", 96)
    for stage, (depth, heads) in enumerate([(2, 3), (2, 6), (6, 12), (2, 24)]):
        width, windows = 96 * 2**stage, (8 // 2**stage) ** 2
        for number in range(depth):
            block = f"layers.{stage}.blocks.{number}"
            if number % 2 and windows > 1:
                state[f"{block}.attn_mask"] = torch.zeros(windows, 49, 49)
            add(f"{block}.norm1", width)
            state[f"{block}.attn.relative_position_bias_table"] = 0.05 * torch.randn(169, heads)
            state[f"{block}.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
            add(f"{block}.attn.qkv", 3 * width, width)
            add(f"{block}.attn.proj", width, width)
            add(f"{block}.norm2", width)
            add(f"{block}.mlp.fc1", 4 * width, width)
            add(f"{block}.mlp.fc2", width, 4 * width)
        if stage < 3:
            add(f"layers.{stage}.downsample.reduction", 2 * width, 4 * width, bias=False)
            add(f"layers.{stage}.downsample.norm", 4 * width)
    add("norm", 768)
    add("head", 1000, 768)
    return state


@pytest.fixture(scope="module")
def data(run_tool, tmp_path_factory) -> Path:
    """The converted data."""
    folder = tmp_path_factory.mktemp("pascal")
    output = run_tool(
        "tools/dataset_converters/pascal_context.py",
        write_raw(folder / "PASCAL_MT"), folder / "pascal_mt", "--workers", "1", code=1,
    )  # fmt: skip
    # the number of images of each split
    assert "PASCAL_MT is NOT complete: 2 problem(s)" in output.text
    return folder / "pascal_mt"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """The file of the pretrained backbone."""
    path = tmp_path_factory.mktemp("pretrained") / "swin_tiny_patch4_window7_224.pth"
    torch.manual_seed(0)
    torch.save({"model": official_swin_tiny()}, path)
    return path


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("head", CONFIGS)
def test_from_the_archive_to_the_scores(run_tool, data, pretrained, tmp_path, head):
    options = [
        "--cfg-options", f"data_root={data}", f"pretrained={pretrained}", "image_size=64,64",
        "total_batch_size=4", "train_cfg.max_epochs=2", "train_cfg.val_interval=1",
        "optim_wrapper.optimizer.lr=1e-3",
        *(f"{name}_dataloader.num_workers=0" for name in ("train", "val", "test")),
    ]  # fmt: skip
    trained = run_process(
        "bash", "tools/dist_train.sh", CONFIGS[head], "4", "--work-dir", tmp_path / "run", *options
    )
    assert trained.count("Epoch(val)") == 2
    checkpoint = tmp_path / "run/epoch_2.pth"
    names = read_checkpoint(str(checkpoint))["state_dict"]
    assert any(name.startswith("backbone.peft.") for name in names)
    frozen = re.compile(r"(patch_embed|attn|ffn|downsample|norm\d)\..*(weight|bias|table)$")
    assert not [name for name in names if frozen.search(name.split("peft.")[0])]

    run_tool("tools/test.py", CONFIGS[head], checkpoint, "--work-dir", tmp_path / "test",
             "--out", tmp_path / "out", *options)  # fmt: skip
    metrics = json.loads((tmp_path / "test/metrics.json").read_text())
    again = recompute(data, tmp_path / "out")
    for name, by in TOLERANCES.items():
        assert metrics[name] == pytest.approx(again[name], abs=by), name
    assert metrics["semseg/images"] == len(VAL)
    assert metrics["human_parts/images"] == len(VAL) - 1  # the cat has no parts
    assert 30 < metrics["semseg/mIoU"] < 100  # neither constant nor the labels
    if head == "mlp":
        gains = [
            (again[name] - of) / of * (-1) ** (name == "normals/mErr") for name, of in REFERENCE
        ]
        assert metrics["delta"] == pytest.approx(100 * np.mean(gains), abs=0.2)
    # results of four processes in the last validation
    last = json.loads((tmp_path / "run/last_validation.json").read_text())["metrics"]
    assert last == pytest.approx(metrics, abs=0.5)
