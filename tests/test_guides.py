"""docs/extend.md: its examples work. Links between pages exist."""

import re
import sys

import cv2
import numpy as np
import pytest
import torch
from commands import ROOT

from vmt_mm.apis import load_config
from vmt_mm.errors import InputError
from vmt_mm.registry import LOSSES, MODELS, PEFT_METHODS, TASKS, WEIGHTINGS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import build_tasks
from vmt_mm.tasks.losses import FITTING

DOCS = ROOT / "docs"


def blocks(section):
    """The Python blocks of a section of docs/extend.md."""
    text = re.split(r"^## ", (DOCS / "extend.md").read_text(), flags=re.MULTILINE)
    (own,) = [part for part in text if part.startswith(f"{section}\n")]
    return re.findall(r"```python\n(.*?)```", own, re.DOTALL)


@pytest.fixture(autouse=True)
def clean_registries():
    """Undo, after a test, what the page's code registered."""
    registries = (LOSSES, MODELS, PEFT_METHODS, TASKS, WEIGHTINGS)
    before = [(registry, dict(registry.module_dict)) for registry in registries]
    yield
    for registry, entries in before:
        registry._module_dict.clear()
        registry._module_dict.update(entries)


def build(peft, tasks=None, backbone=None):
    model = MODELS.build(
        dict(
            type="MultiTaskSegmentor",
            tasks=tasks or dict(normals=dict(type="Normals"), depth=dict(type="Depth")),
            backbone=dict(
                **(backbone or dict(type="MultiTaskSwin", arch="nano")),
                allow_random_backbone=True,
                peft=peft,
            ),
            head=dict(type="MLPHead", channels=8),
        )
    )
    model.init_weights()
    return model


def trainable(model):
    return {name for name, p in model.backbone.named_parameters() if p.requires_grad}


def check_gradients(model):
    """Every trainable parameter of the backbone gets a gradient."""
    logits = model.train()(torch.randn(2, 3, 32, 32), mode="tensor")
    sum((values * torch.randn_like(values)).sum() for values in logits.values()).backward()
    assert all(p.grad is not None for p in model.backbone.parameters() if p.requires_grad)


def test_the_example_method(tmp_path, monkeypatch):
    code, config = blocks("A PEFT method")
    (tmp_path / "my_methods.py").write_text(code)
    (tmp_path / "my_config.py").write_text(config)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_methods", raising=False)
    cfg = load_config("my_config.py", training=False)
    assert cfg.model.backbone.peft == dict(type="ScaleAndShift", start=1.0)
    model = build(cfg.model.backbone.peft)
    images = torch.randn(1, 3, 32, 32)
    frozen = build(None)
    frozen.backbone.load_state_dict(model.backbone.state_dict(), strict=False)
    with torch.no_grad():
        start, expected = model.backbone.eval()(images), frozen.backbone.eval()(images)
    assert all(torch.equal(a, b) for a, b in zip(start["depth"], expected["depth"], strict=True))
    check_gradients(model)
    names = {name.removeprefix("peft.") for name in trainable(model)}
    assert names == {f"blocks.{n}.scale" for n in range(8)} | {
        f"shifts.{n}.{task}" for n in range(4) for task in ("normals", "depth")
    }
    with pytest.raises(InputError, match="`start` must be positive"):
        build(dict(type="ScaleAndShift", start=0))
    norms = build(dict(type="TrainNorms"))
    assert len(trainable(norms)) == 8 * 4
    check_gradients(build(dict(type="PerTask", method=dict(type="TrainNorms"))))
    monkeypatch.delitem(sys.modules, "my_methods")


def test_the_example_backbone():
    names = {"__name__": "my_backbones"}
    for block in blocks("A backbone"):
        exec(compile(block, "extend.md", "exec"), names)
    pyramid = dict(type="MultiTaskPyramid")
    for peft in (
        dict(type="VMTAdapter", ratio=4),
        dict(type="Hyperformer", ratio=4, embedding=4),
        dict(type="PerTask", method=dict(type="FullFineTuning")),
    ):
        check_gradients(build(peft, backbone=pyramid))
    model = build(dict(type="VMTAdapter", ratio=4), backbone=pyramid)
    state = {k: v for k, v in model.backbone.state_dict().items() if not k.startswith("peft.")}
    model.backbone.load_frozen(state, "own.pth")
    state.pop("norms.3.bias")
    with pytest.raises(InputError, match=r"own.pth does not fit .*norms\.3\.bias"):
        model.backbone.load_frozen(state, "own.pth")
    with pytest.raises(InputError, match="relative_position_table"):
        build(dict(type="RelativeBias"), backbone=pyramid)


def test_the_example_task(tmp_path):
    code, _ = blocks("A kind of task")
    exec(compile(code, "extend.md", "exec"), {"__name__": "my_tasks"})
    model = build(None, tasks=dict(height=dict(type="HeightMap", loss_weight=2.0)))
    task = model.tasks["height"]
    metres = np.float32([[0, 1.25], [2.5, 0.01]])
    cv2.imwrite(str(tmp_path / "a.png"), task.label.encode(metres[None]))
    label = task.label.decode(tmp_path / "a.png")
    assert np.array_equal(label, metres)
    sample = MultiTaskDataSample()
    sample.set_label("height", task.label.to_tensor(np.tile(label, (16, 16))))
    losses = model(torch.randn(1, 3, 32, 32), [sample], mode="loss")
    assert losses["loss_height"] > 0
    losses["loss_height"].backward()
    assert task.draw(metres[None], {}).shape == (2, 2, 3)
    target = task.label.to_tensor(label)[None]
    assert task.loss(target.clone(), target) == 0
    assert task.loss(target + (target == 0), target) == 0  # unlabelled pixels do not count


def test_the_example_weighting():
    (code,) = blocks("A task weighting")
    exec(compile(code, "extend.md", "exec"), {"__name__": "my_weightings"})
    weighting = WEIGHTINGS.build(dict(type="RunningMean", tasks=["a", "b"], momentum=0.5))
    present = torch.tensor([True, False])
    for loss, mean in ((3.0, 2.0), (4.0, 3.0)):
        objective, weights = weighting(torch.tensor([loss, 0.0]), present)
        assert objective.item() == pytest.approx(loss / mean)
        assert weights.tolist() == pytest.approx([1 / mean, 1])
    again = WEIGHTINGS.build(dict(type="RunningMean", tasks=["a", "b"]))
    again.load_state_dict(weighting.state_dict())
    assert torch.equal(again.state["means"], torch.tensor([3.0, 1.0]))


def test_the_example_loss():
    _, code = blocks("A kind of task")
    exec(compile(code, "extend.md", "exec"), {"__name__": "my_losses"})
    cfg = dict(type="Depth", loss=dict(type="charbonnier", eps=0.5))
    task = build(None, tasks=dict(depth=cfg)).tasks["depth"]
    logits, target = torch.tensor([[[[3.0, 5.0, 9.0]]]]), torch.tensor([[[[3.0, 4.0, 0.0]]]])
    assert task.loss(logits, target).item() == pytest.approx((1.25**0.5 - 0.5) / 2)


def test_the_losses_of_the_configs_page():
    text = (DOCS / "configs.md").read_text().split("## Losses")[1].split("## Unknown keys")[0]
    names = {}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], names)
    assert list(build_tasks(names["tasks"])["semseg"].losses) == ["crossentropy", "dice"]
    for row, content in zip(
        [line for line in text.splitlines() if line.startswith("| `")],
        ("classes", "foreground", "depth", "normals"),
        strict=True,
    ):
        for name in FITTING[content].split():
            assert f"`{name}" in row


PAGES = sorted(path.name for path in DOCS.glob("*.md"))


def anchors_of(path):
    """Anchors of a page's headings."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", h).strip().lower()) for h in headings}


@pytest.mark.parametrize("page", ["../README.md", *PAGES])
def test_every_link_leads_somewhere(page):
    path = DOCS / page
    for target, anchor in re.findall(
        r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", path.read_text()
    ):
        file = path.parent / target if target else path
        assert file.exists(), target
        if page in PAGES:  # whose links must work on the site, which has this folder only
            assert DOCS in file.resolve().parents, target
        assert not anchor or anchor in anchors_of(file), f"{target}#{anchor}"


@pytest.mark.parametrize("page", ["../README.md", "../CONTRIBUTING.md", *PAGES])
def test_every_file_that_a_page_names_exists(page):
    folders = "configs|tools|demo|docs|tests|vmt_mm|requirements"
    pattern = rf"(?<![\w/.])(?:{folders})/[\w/.-]+\.(?:py|sh|txt|md|yml|safetensors)\b"
    named = set(re.findall(pattern, (DOCS / page).read_text()))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("file", ["mkdocs.yml", "docs/index.md"])
def test_the_navigation_and_the_index_have_every_page(file):
    named = set(re.findall(r"\b(\w+\.md)", (ROOT / file).read_text())) - {"README.md"}
    assert named == set(PAGES) - ({"index.md"} if file != "mkdocs.yml" else set())
