"""Import, first impressions, and what the README and docs/{install,configs,architecture}.md say."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from mmengine.registry import Registry

import vmt_mm
from vmt_mm import registry
from vmt_mm.apis import load_config
from vmt_mm.config.defaults import DEFAULTS
from vmt_mm.registry import DATASETS, EVALUATOR, MODELS, PEFT_METHODS
from vmt_mm.rendering import write_dataset

ROOT = Path(__file__).parents[1]
README, INSTALL, CONFIGS, ARCHITECTURE = (
    (ROOT / name).read_text()
    for name in ("README.md", "docs/install.md", "docs/configs.md", "docs/architecture.md")
)


def python_block(page, text):
    """The one block of Python on a page that contains a text."""
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if text in b)
    return block


def python(code, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, **kwargs
    )


@pytest.mark.processes
def test_a_missing_library_is_one_line():
    done = python(
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'mmseg' else find(name, *a)\n"
        "import vmt_mm"
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: vmt_mm needs mmseg: run `pip install -r requirements/")


@pytest.mark.processes
def test_import_is_silent(tmp_path):
    done = python("import vmt_mm.apis, vmt_mm.datasets, vmt_mm.models", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_backbone_of_a_config_builds_separately():
    cfg = load_config(ROOT / "configs/vmt/vmt_swin-nano_shapes.py")
    backbone = MODELS.build(cfg.model.backbone)
    backbone.init_weights()
    features = backbone(torch.randn(1, 3, 64, 48))
    assert list(features) == ["semseg", "human_parts", "saliency", "normals"]
    assert [m.shape for m in features["normals"]] == [
        (1, 20, 16, 12), (1, 40, 8, 6), (1, 80, 4, 3), (1, 160, 2, 2)
    ]  # fmt: skip


def test_shipped_weights_are_small():
    files = sorted((ROOT / "vmt_mm/weights").glob("*.safetensors"))
    assert [file.stem for file in files] == ["swin_nano", "vmt_swin-nano_shapes"]
    assert sum(file.stat().st_size for file in files) < 3 * 2**20


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """A user's folders: two tasks, one with a custom name."""
    write_dataset(tmp_path / "my_rooms", train=2, val=1, size=32, seed=0, workers=1)
    for file in (tmp_path / "my_rooms/human_parts").iterdir():
        file.unlink()
    (tmp_path / "my_rooms/semseg").rename(tmp_path / "my_rooms/floor")
    for file in (tmp_path / "my_rooms/floor").iterdir():
        cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_UNCHANGED) % 3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readmes_config_for_own_data(rooms):
    block = python_block(README, "my_rooms")
    (rooms / "own.py").write_text(block.replace('"configs/', f'"{ROOT}/configs/'))
    cfg = load_config("own.py")
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert cfg.val_dataloader.dataset.data_root == "my_rooms"
    assert set(dataset[0]["data_samples"].keys()) == {"gt_floor", "gt_normals"}
    assert dataset[0]["inputs"].shape == (3, 512, 512)
    model = MODELS.build(cfg.model)
    assert {n: t.out_channels for n, t in model.tasks.items()} == dict(floor=3, normals=3)
    evaluator = EVALUATOR.build(cfg.val_evaluator)
    assert [m.task for m in evaluator.metrics] == ["floor", "normals"]
    assert not evaluator.reference


def test_the_readmes_python_predicts_every_task(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exec(compile(python_block(README, "init_model"), "README.md", "exec"), {})
    printed = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines()[-4:])
    one = "(1, 112, 112)"
    assert printed == dict(semseg=one, human_parts=one, saliency=one, normals="(3, 112, 112)")


def test_the_readme_and_the_guide_list_every_method():
    methods = {n for n, c in PEFT_METHODS.module_dict.items() if c.__module__.startswith("vmt_mm.")}
    for page in (README, CONFIGS):
        assert methods <= set(re.findall(r"`(\w+)", page))


def test_the_guides_table_of_methods_has_their_arguments():
    table = CONFIGS.split("| `type` of the method")[1].split("\n\n")[0]
    rows = [re.findall(r"`([^`]+)`", line) for line in table.splitlines()[2:]]
    for name, arguments in (row for row in rows if len(row) == 2 and row[0] != "PerTask"):
        parameters = inspect.signature(PEFT_METHODS.get(name)).parameters.values()
        assert arguments == ", ".join(f"{p.name}={p.default!r}" for p in parameters), name


def test_the_guides_config_changes_the_method(tmp_path, monkeypatch):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "lora.py").write_text(python_block(CONFIGS, "_delete_"))
    monkeypatch.chdir(tmp_path)
    assert load_config("lora.py").model.backbone.peft == dict(type="LoRA", rank=4)


def test_the_guide_lists_every_top_level_default():
    table = CONFIGS.split("| top-level key")[1].split("\n\n")[0]
    keys = {k for line in table.splitlines() for k in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert keys == {row.key for row in DEFAULTS}


def test_the_architecture_lists_every_name_with_another_behaviour():
    shared = set()
    for own in vars(registry).values():
        if not isinstance(own, Registry) or own.parent is None:
            continue
        own.import_from_location()
        shared |= {name for name in own.module_dict if own.parent.get(name) is not None}
    table = ARCHITECTURE.split("| name | difference")[1].split("\n\n")[0]
    names = {n for line in table.splitlines() for n in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert names == shared


@pytest.mark.parametrize("page", [README, INSTALL], ids=["README", "install"])
def test_versions_are_those_of_the_locked_files(page):
    locked, original = (
        dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / file).read_text(), re.MULTILINE))
        for file in ("requirements/locked.txt", "requirements/original.txt")
    )
    rows = {
        "mmengine, mmcv, mmseg, mmpretrain": (
            ["onedl-mmengine", "onedl-mmcv", "onedl-mmsegmentation", "onedl-mmpretrain"],
            ["mmengine", "mmcv-lite", "mmsegmentation", "mmpretrain"],
        ),
        "tested with PyTorch, NumPy, OpenCV": (["torch", "numpy", "opencv-python"],) * 2,
    }
    for heading, packages in rows.items():
        (line,) = (line for line in page.splitlines() if line.startswith(f"| {heading} |"))
        cells = line.strip("| ").split(" | ")[1:]
        for cell, names, versions in zip(cells, packages, (locked, original), strict=True):
            for shown, name in zip(cell.split(", "), names, strict=True):
                assert f"{versions[name]}.".startswith(f"{shown}."), name


def documented(node):
    """Names in the section ``Args`` of a docstring."""
    section = re.search(r"^Args:\n((?:    .*\n?)+)", ast.get_docstring(node) or "", re.MULTILINE)
    return re.findall(r"^    (\S[^:]*):", section[1], re.MULTILINE) if section else []


def accepted(node):
    """Arguments of a function, or of a class's constructor; fields of a dataclass."""
    if isinstance(node, ast.ClassDef):
        (init,) = [n for n in node.body if getattr(n, "name", "") == "__init__"] or [None]
        if init is None:
            return {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
        node = init
    return {n.arg for n in ast.walk(node.args) if isinstance(n, ast.arg)}


def test_documented_arguments_are_those_of_signatures():
    """What ``make docs`` asks for as well."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    wrong, count = [], 0
    for path in (ROOT / "vmt_mm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = documented(node) if isinstance(node, kinds) else []
            count += len(names)
            wrong += [f"{path.name}: {node.name}: {n}" for n in names if n not in accepted(node)]
    assert count > 100
    assert wrong == []


def test_the_citation_file():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == vmt_mm.__version__
    assert citation["preferred-citation"]["title"] in README


def test_the_readme_is_short():
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    assert len(prose.split()) <= 700


def test_every_path_of_the_readme_exists():
    paths = re.findall(r"\]\(([\w/.-]+)[)#]", README)
    paths += re.findall(r"(?:configs|tools|docs|demo|vmt_mm)/[\w/.-]+\.\w+", README)
    assert len(set(paths)) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []
