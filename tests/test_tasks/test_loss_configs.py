"""Losses by config equal float64 loops over the valid pixels, and are finite in all corners.

`test_losses.py` covers the default losses of the tasks, without a config.
"""

import math
import pickle
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from vmt_mm.errors import InputError
from vmt_mm.registry import LOSSES, MODELS
from vmt_mm.tasks import Task, build_tasks
from vmt_mm.tasks.losses import FITTING

C, H, W = 4, 6, 7
WEIGHTS = [0.5, 2.0, 1.0, 3.0]


def _task(kind: str, loss=None, **options) -> Task:
    options = {"num_classes": C, **options} if kind == "Segmentation" else options
    return build_tasks(dict(t=dict(type=kind, loss=loss, **options)))["t"]


def _case(kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of three images: ignored pixels, no valid one, one class only."""
    rng = np.random.default_rng(seed)
    channels = {"Segmentation": C, "Saliency": 1, "Depth": 1, "Normals": 3}[kind]
    logits = rng.normal(scale=1.5, size=(3, channels, H, W))
    ignored = rng.random((3, 1, H, W)) < 0.3
    ignored[1] = True
    if kind == "Normals":
        target = rng.normal(size=(3, 3, H, W))
        target = target / np.linalg.norm(target, axis=1, keepdims=True) * ~ignored
    elif kind == "Depth":
        logits, target = 3 + logits, rng.uniform(0.5, 9, ignored.shape) * ~ignored
        logits[0, 0, :2] = -0.2  # as in an untrained model
    else:
        target = rng.integers(0, max(channels, 2) - (channels > 1), ignored.shape)  # one absent
        target[2] = 1
        target = np.where(ignored, 255, target).astype(np.uint8)
    return logits, target


def _pixels(logits, target, images=range(3)):
    """Logits (C,) and label of every valid pixel of images."""
    for n, y, x in product(images, range(H), range(W)):
        label = target[n, :, y, x]
        if label.any() if label.dtype.kind == "f" else label[0] != 255:
            yield logits[n, :, y, x], label if len(label) > 1 else label[0]


def _images(logits, target):
    """Valid pixels of each image that has some."""
    for n in range(3):
        if pixels := list(_pixels(logits, target, [n])):
            yield pixels


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _softmax(x):
    return np.exp(x) / np.exp(x).sum()


def _bce(x, truth):
    return -math.log(_sigmoid(x if truth else -x))


def _mean(values):
    values = list(values)
    return sum(values) / len(values)


def _cross_entropy(weights, smoothing=0.0):
    def loss(logits, target):
        total = norm = 0.0
        for x, label in _pixels(logits, target):
            nll = -np.log(_softmax(x))
            smooth = sum(w * v for w, v in zip(weights, nll, strict=True)) / C
            total += (1 - smoothing) * weights[label] * nll[label] + smoothing * smooth
            norm += weights[label]
        return total / norm

    return loss


def _one_vs_all(logits, target):
    return _mean(_bce(x[c], label == c) for x, label in _pixels(logits, target) for c in range(C))


def _ohem(count, divide_by_kept, thresh=0.7):
    """The hardest pixels: with probabilities below thresh, and below the count-th."""

    def loss(logits, target):
        p = sorted(_softmax(x)[label] for x, label in _pixels(logits, target))
        limit = max(p[min(count, len(p) - 1)], thresh)
        hard = [-math.log(v) for v in p if v < limit]
        assert 0 < len(hard) < len(p)
        return sum(hard) / (len(hard) if divide_by_kept else len(p))

    return loss


def _top(count):
    def loss(logits, target):
        every = sorted(
            (-math.log(_softmax(x)[k]) for x, k in _pixels(logits, target)), reverse=True
        )
        assert count < len(every)
        return sum(every[:count]) / len(every)

    return loss


def _focal(gamma, alpha, weights, channels):
    def loss(logits, target):
        values = []
        for x, label in _pixels(logits, target):
            for c in range(channels):
                truth = label == (c if channels > 1 else 1)
                p = _sigmoid(x[c])
                hard, share = (1 - p, alpha[c]) if truth else (p, 1 - alpha[c])
                values.append(weights[c] * share * hard**gamma * _bce(x[c], truth))
        return _mean(values)

    return loss


def _dice(activation, naive, eps=1e-3):
    def of_image(pixels):
        p = np.array([activation(x) for x, _ in pixels])
        one = p.shape[1] == 1
        t = np.array(
            [[float(k == (1 if one else c)) for c in range(p.shape[1])] for _, k in pixels]
        )
        if naive:
            return 1 - (2 * (p * t).sum() + eps) / (p.sum() + t.sum() + eps)
        return 1 - 2 * (p * t).sum() / ((p * p).sum() + (t * t).sum() + 2 * eps)

    return lambda logits, target: _mean(of_image(pixels) for pixels in _images(logits, target))


def _tversky(weights, alpha=0.3, beta=0.7):
    def of_image(pixels):
        total = 0.0
        for c in range(C):
            tp = sum(_softmax(x)[c] for x, k in pixels if k == c)
            fp = sum(_softmax(x)[c] for x, k in pixels if k != c)
            fn = sum(1 - _softmax(x)[c] for x, k in pixels if k == c)
            total += weights[c] * (1 - (tp + 1) / (tp + alpha * fp + beta * fn + 1))
        return total / C

    return lambda logits, target: _mean(of_image(pixels) for pixels in _images(logits, target))


def _lovasz_extension(errors, truth):
    """Sum of sorted errors times the growth of the Jaccard loss of the set of the first ones."""

    def jaccard(wrong):
        union = sum(truth) + sum(not truth[i] for i in wrong)
        return 1 - (sum(truth) - sum(truth[i] for i in wrong)) / union

    order, total, before = sorted(range(len(errors)), key=lambda i: -errors[i]), 0.0, 0.0
    for k in range(len(order)):
        now = jaccard(order[: k + 1])
        total, before = total + errors[order[k]] * (now - before), now
    return total


def _lovasz_softmax(pixels):
    probabilities = [(_softmax(x), k) for x, k in pixels]
    classes = sorted({k for _, k in pixels})
    return _mean(
        _lovasz_extension(
            [abs((k == c) - p[c]) for p, k in probabilities], [k == c for _, k in pixels]
        )
        for c in classes
    )


def _lovasz_hinge(pixels):
    errors = [max(0.0, 1 - x[0] * (1 if k else -1)) for x, k in pixels]
    return _lovasz_extension(errors, [bool(k) for _, k in pixels])


def _of_set(function):
    return lambda logits, target: function(list(_pixels(logits, target)))


def _of_images(function):
    return lambda logits, target: _mean(function(p) for p in _images(logits, target))


def _weighted_bce(positive, negative):
    return lambda logits, target: _mean(
        (positive if k else negative) * _bce(x[0], k) for x, k in _pixels(logits, target)
    )


def _balanced_bce(logits, target):
    labels = [k for _, k in _pixels(logits, target)]
    share = labels.count(0) / len(labels)
    return _weighted_bce(share, 1 - share)(logits, target)


def _log_ratio(x, label):
    return math.log(x / label) if x >= label / 10 else math.log(0.1) + 10 * x / label - 1


def _berhu(logits, target):
    errors = [abs(x[0] - g) for x, g in _pixels(logits, target)]
    c = max(errors) / 5
    return _mean(e if e <= c else (e * e + c * c) / (2 * c) for e in errors)


def _silog(lam):
    def of_image(pixels):
        d = [_log_ratio(x[0], g) for x, g in pixels]
        return _mean(v * v for v in d) - lam * _mean(d) ** 2

    return _of_images(of_image)


def _gradients(scales):
    def loss(logits, target):
        total = 0.0
        for step in (2**k for k in range(scales)):
            d = {
                (n, y, x): _log_ratio(logits[n, 0, y, x], target[n, 0, y, x])
                for n, y, x in product(range(3), range(0, H, step), range(0, W, step))
                if target[n, 0, y, x]
            }
            steps = [
                abs(d[q] - v)
                for (n, y, x), v in d.items()
                for q in ((n, y + step, x), (n, y, x + step))
                if q in d
            ]
            total += sum(steps) / len(d)
        return total

    return loss


def _cosine(x, n):
    return float(x @ n / np.linalg.norm(x))


_CE = dict(type="CrossEntropyLoss")
_OHEM = dict(type="OHEMPixelSampler", min_kept=5)
#: (task, config, plain implementation)
CASES = [
    ("Segmentation", dict(type="CrossEntropy"), _cross_entropy([1] * C)),
    ("Segmentation", dict(type="CrossEntropy", class_weight=WEIGHTS), _cross_entropy(WEIGHTS)),
    (
        "Segmentation",
        dict(type="CrossEntropy", class_weight=WEIGHTS, label_smoothing=0.1),
        _cross_entropy(WEIGHTS, 0.1),
    ),
    ("Segmentation", _CE, _cross_entropy([1] * C)),
    ("Segmentation", dict(_CE, class_weight=WEIGHTS), _cross_entropy(WEIGHTS)),
    ("Segmentation", dict(_CE, use_sigmoid=True), _one_vs_all),
    # min_kept is per image, of which there are three
    ("Segmentation", dict(_CE, sampler=dict(_OHEM, thresh=0.1)), _ohem(15, False, 0.1)),
    ("Segmentation", dict(_CE, sampler=dict(_OHEM, thresh=0.7)), _ohem(15, False)),
    ("Segmentation", dict(_CE, sampler=_OHEM), _top(15)),
    ("Segmentation", dict(type="OhemCrossEntropy", min_kept=5, thres=0.6), _ohem(5, True, 0.6)),
    ("Segmentation", dict(type="OhemCrossEntropy", min_kept=9, thres=0.1), _ohem(9, True, 0.1)),
    ("Segmentation", dict(type="FocalLoss"), _focal(2, [0.5] * C, [1] * C, C)),
    (
        "Segmentation",
        dict(type="FocalLoss", gamma=0.5, alpha=[0.1, 0.2, 0.6, 0.9], class_weight=WEIGHTS),
        _focal(0.5, [0.1, 0.2, 0.6, 0.9], WEIGHTS, C),
    ),
    ("Segmentation", dict(type="DiceLoss"), _dice(_sigmoid, False)),
    (
        "Segmentation",
        dict(type="DiceLoss", use_sigmoid=False, naive_dice=True),
        _dice(_softmax, True),
    ),
    ("Segmentation", dict(type="TverskyLoss", class_weight=WEIGHTS), _tversky(WEIGHTS)),
    ("Segmentation", dict(type="LovaszLoss"), _of_set(_lovasz_softmax)),
    ("Segmentation", dict(type="LovaszLoss", per_image=True), _of_images(_lovasz_softmax)),
    ("Saliency", dict(type="BCE"), _balanced_bce),
    ("Saliency", dict(type="BCE", positive_weight=0.7), _weighted_bce(0.7, 0.3)),
    ("Saliency", dict(type="BCE", pos_weight=1.0), _weighted_bce(1, 1)),
    ("Saliency", dict(type="BCE", pos_weight=3.0), _weighted_bce(3, 1)),
    ("Saliency", dict(_CE, class_weight=[3.0]), _weighted_bce(3, 1)),
    ("Saliency", dict(type="BoundaryLoss"), _balanced_bce),
    ("Saliency", dict(type="FocalLoss", alpha=0.25), _focal(2, [0.25], [1], 1)),
    ("Saliency", dict(type="DiceLoss"), _dice(_sigmoid, False)),
    ("Saliency", dict(type="LovaszLoss"), _of_set(_lovasz_hinge)),
    ("Saliency", dict(type="LovaszLoss", per_image=True), _of_images(_lovasz_hinge)),
    ("Depth", dict(type="DepthL1"), lambda z, t: _mean(abs(x[0] - g) for x, g in _pixels(z, t))),
    (
        "Depth",
        dict(type="LogL1"),
        lambda z, t: _mean(abs(_log_ratio(x[0], g)) for x, g in _pixels(z, t)),
    ),
    ("Depth", dict(type="BerHu"), _berhu),
    ("Depth", dict(type="SILog"), _silog(0.5)),
    ("Depth", dict(type="SILog", lam=1.0), _silog(1.0)),
    ("Depth", dict(type="GradientMatching", scales=2), _gradients(2)),
    (
        "Normals",
        dict(type="NormalsL1"),
        lambda z, t: _mean(
            v for x, n in _pixels(z, t) for v in np.abs(x / np.linalg.norm(x) - n)
        ),
    ),
    ("Normals", dict(type="Cosine"), lambda z, t: _mean(1 - _cosine(*p) for p in _pixels(z, t))),
    (
        "Normals",
        dict(type="Angular"),
        lambda z, t: _mean(math.acos(_cosine(*p)) for p in _pixels(z, t)),
    ),
]  # fmt: skip
#: Configs in which a task's loss is finite and has finite gradients for any labels.
CORNERS = [case[:2] for case in CASES]
_IDS = [f"{kind}-{'-'.join(str(v) for v in cfg.values())}"[:70] for kind, cfg in CORNERS]


def _run(task: Task, logits, target) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.as_tensor(logits).float().detach().clone().requires_grad_()
    target = torch.as_tensor(target)
    loss = task.loss(logits, target.float() if target.is_floating_point() else target)
    assert loss.ndim == 0
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient


@pytest.mark.parametrize(("kind", "cfg", "plain"), CASES, ids=_IDS)
def test_equals_a_loop_over_the_valid_pixels(kind, cfg, plain):
    for seed in (0, 1):
        logits, target = _case(kind, seed)
        if kind == "Depth":
            target = target.astype(np.float32)
        task = _task(kind, cfg)
        loss, gradient = _run(task, logits, target)
        assert float(loss) == pytest.approx(plain(logits, target), rel=2e-5)
        valid = task.label.valid(torch.as_tensor(target))
        assert (gradient[~valid.expand_as(gradient)] == 0).all()
        assert gradient.isfinite().all()
        assert task.loss_count(torch.as_tensor(target)) == valid.sum()
        if cfg["type"] == "BerHu":  # its limit c has no gradient
            continue
        # a finite difference along the gradient
        step = 1e-5 * gradient.double().numpy()
        change = (plain(logits + step, target) - plain(logits - step, target)) / 2e-5
        assert float((gradient.double() ** 2).sum()) == pytest.approx(change, rel=2e-3, abs=1e-9)


def _perfect(kind: str, target: np.ndarray, scale: float) -> np.ndarray:
    """Logits that are right everywhere; scale 1e4 saturates every softmax and sigmoid."""
    if kind == "Segmentation":
        return scale * (2.0 * (target == np.arange(C).reshape(1, C, 1, 1)) - 1)
    return scale * (2.0 * (target == 1) - 1) if kind == "Saliency" else target + 0.0


@pytest.mark.parametrize(("kind", "cfg"), CORNERS, ids=_IDS)
def test_corners_are_finite(kind, cfg):
    task = _task(kind, cfg)
    logits, target = _case(kind)
    one = target.copy()
    one[:, :, 1:] = task.label.fill
    one[:, :, :, 1:] = task.label.fill  # the first pixel of images 0 and 2, if valid
    one[2, :, 0, 0] = (0, 0, 1) if kind == "Normals" else 1
    constant = np.where(target == task.label.fill, target, target.dtype.type(0))
    corners = dict(
        perfect=(_perfect(kind, target, 8.0), target),
        saturated=(_perfect(kind, target, 1e4), target),
        wrong=(-_perfect(kind, target, 1e4), target),
        zero=(0 * logits, target),
        one_pixel=(logits, one),
        one_class=(logits, constant if kind in ("Segmentation", "Saliency") else target),
        huge=(1e4 * logits, target),
    )
    for name, (values, labels) in corners.items():
        loss, gradient = _run(task, values, labels)
        assert loss.isfinite(), name
        assert gradient.isfinite().all(), name
        assert loss > -1e-6, name
        if name == "saturated" and "label_smoothing" not in cfg:
            assert loss < 1e-3
    loss, gradient = _run(task, logits, np.full_like(target, task.label.fill))
    assert loss == 0
    assert (gradient == 0).all()


def test_berhu_takes_its_limit_as_a_constant():
    logits, target = _case("Depth")
    _, gradient = _run(_task("Depth", dict(type="BerHu")), logits, target)
    error = np.where(target > 0, logits - target, 0)
    c = abs(error).max() / 5
    slope = np.where(abs(error) <= c, np.sign(error), error / c) / (target > 0).sum()
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-9)


def test_angles_near_0_and_180_degrees():
    task = _task("Normals", dict(type="Angular"))
    target = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    for angle in (0.0, 1e-6, 1e-3, 1.0, math.pi - 1e-3, math.pi):
        side = math.sin(angle) if angle < math.pi else 0.0
        logits = torch.tensor([side, 0.0, math.cos(angle)]).view(1, 3, 1, 1) * 5
        loss, gradient = _run(task, logits, target)
        assert float(loss) == pytest.approx(angle, abs=1e-6)
        steep = 0 if angle in (0.0, math.pi) else 1 / 5  # per unit of length of the logits
        assert float(gradient.norm()) == pytest.approx(steep, abs=1e-4)
    loss, gradient = _run(task, 0 * target, target)
    assert float(loss) == pytest.approx(math.pi / 2)  # no direction
    assert (gradient == 0).all()
    for tiny in (1e-20, 1e-38):
        assert _run(task, tiny * target, target)[1].isfinite().all()


def test_several_losses_are_a_weighted_sum_with_names():
    cfg = [
        dict(type="CrossEntropyLoss", loss_weight=0.5, loss_name="loss_ce"),
        dict(type="DiceLoss", loss_weight=3.0),
        dict(type="DiceLoss", loss_weight=0.0, name="other"),
    ]
    logits, target = (torch.as_tensor(x) for x in _case("Segmentation"))
    task = _task("Segmentation", cfg)
    terms = task.loss_terms(logits, target)
    assert list(terms) == ["ce", "dice", "other"]
    alone = [_task("Segmentation", dict(x, loss_weight=1.0)).loss(logits, target) for x in cfg]
    torch.testing.assert_close(terms["ce"], 0.5 * alone[0])
    torch.testing.assert_close(task.loss(logits, target), 0.5 * alone[0] + 3 * alone[1])
    assert pickle.loads(pickle.dumps(task)).loss_terms(logits, target) == terms


def test_mmsegs_warning_of_avg_non_ignore_does_not_appear(recwarn):
    _task("Segmentation", _CE)
    assert not [w for w in recwarn if "avg_non_ignore" in str(w.message)]


REFUSED = [
    ("Segmentation", dict(type="BoundaryLoss"), "type 'BoundaryLoss' does not fit labels of cl"),
    ("Segmentation", dict(type="HuasdorffDisstanceLoss"), "does not fit labels of classes; known"),
    ("Segmentation", dict(type="DepthL1"), "does not fit labels of classes; known: ['CrossEnt"),
    ("Segmentation", dict(type="DiceLos"), "type 'DiceLos' is unknown; known: ['CrossEntropy'"),
    ("Segmentation", dict(type="ResNet"), "ResNet: ResNet.__init__() missing"),
    ("Segmentation", dict(loss_weight=2.0), "type 'None' is unknown"),
    ("Segmentation", dict(type="DiceLoss", smoth=1), "DiceLoss: .*argument 'smoth'"),
    ("Segmentation", dict(type="CrossEntropy", smoth=1), "CrossEntropy: .*argument 'smoth'"),
    (
        "Segmentation",
        dict(_CE, class_weight=[1.0, 2.0]),
        "weight tensor should be .* all 4 classes",
    ),
    ("Segmentation", dict(_CE, avg_non_ignore=False), "`avg_non_ignore` must be True, got False"),
    ("Segmentation", dict(_CE, reduction="sum"), "`reduction` must be 'mean', got 'sum'"),
    ("Segmentation", dict(type="DiceLoss", reduction="none"), "`reduction` must be 'mean'"),
    ("Segmentation", dict(type="DiceLoss", sampler=_OHEM), "`sampler` needs type='CrossEntropyL"),
    ("Segmentation", dict(_CE, loss_weight=-1), "`loss_weight` of loss CrossEntropyLoss must be"),
    ("Segmentation", dict(_CE, name="a loss"), "`name` of loss CrossEntropyLoss must be"),
    ("Segmentation", [_CE, _CE], "`name` of loss CrossEntropyLoss must be .* no other loss"),
    ("Segmentation", "DiceLoss", "`loss` must be a config such as dict(type=...)"),
    ("Segmentation", [], "`loss` must be a config such as dict(type=...)"),
    ("Segmentation", dict(type="FocalLoss", use_sigmoid=False), "`use_sigmoid` must be True"),
    ("Saliency", dict(type="TverskyLoss"), "type 'TverskyLoss' does not fit labels of foreground"),
    ("Saliency", dict(_CE, use_sigmoid=False), "Target 1 is out of bounds"),
    ("Saliency", dict(type="BCE", positive_weight=1.5), "must be 'balanced' or in (0, 1), got 1.5"),
    ("Saliency", dict(type="BCE", positive_weight="even"), "'balanced' or in (0, 1), got 'even'"),
    ("Saliency", dict(type="BCE", pos_weight=0), "BCE: `pos_weight` must be positive, got 0"),
    ("Depth", dict(type="DiceLoss"), "does not fit labels of depth; known: ['DepthL1', "),
    ("Depth", dict(type="SiLogLoss"), "does not fit labels of depth"),
    ("Depth", dict(type="SILog", lam=2), "SILog: `lam` must be in [0, 1], got 2"),
    ("Normals", dict(type="Angular", degrees=True), "Angular: .*argument 'degrees'"),
]


@pytest.mark.parametrize(("kind", "cfg", "message"), REFUSED)
def test_what_does_not_fit_is_refused(kind, cfg, message):
    pattern = "t: .*" + message.replace("(", r"\(").replace(")", r"\)").replace("[", r"\[")
    with pytest.raises(InputError, match=pattern):
        _task(kind, cfg)


def test_every_loss_of_the_table_is_tested_and_builds():
    tested = {(kind, cfg["type"]) for kind, cfg in CORNERS}
    kinds = dict(classes="Segmentation", foreground="Saliency", depth="Depth", normals="Normals")
    listed = {(kinds[content], name) for content, x in FITTING.items() for name in x.split()}
    assert listed == tested


def test_losses_are_tried_without_values_in_a_model_without_values():
    logits, target = (torch.as_tensor(x) for x in _case("Segmentation"))
    with torch.device("meta"):
        task = _task("Segmentation", [dict(type="DiceLoss"), dict(type="FocalLoss")])
    assert task.loss(logits, target).device.type == "cpu"


def test_an_own_loss_needs_no_edit_of_the_package(monkeypatch):
    monkeypatch.setattr(LOSSES, "_module_dict", dict(LOSSES.module_dict))
    monkeypatch.setattr(MODELS, "_module_dict", dict(MODELS.module_dict))

    @LOSSES.register_module()
    def charbonnier(logits, target, valid, *, eps=0.1):
        distance = ((logits - target) ** 2 + eps**2).sqrt() - eps
        return (distance * valid).sum() / valid.sum().clamp(min=1)

    @LOSSES.register_module()
    class Powers(nn.Module):
        def __init__(self, power):
            super().__init__()
            self.power = power

        def forward(self, logits, target, valid):
            return ((logits - target).abs() ** self.power * valid).sum() / valid.sum()

    @LOSSES.register_module()
    class Trained(Powers):
        def __init__(self):
            super().__init__(1)
            self.scale = nn.Parameter(torch.ones(()))

    @MODELS.register_module()
    class HeadStyle(nn.Module):  # as a loss of mmseg's decode heads
        def forward(self, logits, label, weight=None, ignore_index=255):
            return (logits.argmax(1) == label).float().mean() + 0 * logits.sum()

    logits, target = (torch.as_tensor(x) for x in _case("Depth"))
    cfg = [dict(type="charbonnier", eps=0.5), dict(type="Powers", power=3, loss_weight=2.0)]
    terms = _task("Depth", cfg).loss_terms(logits, target)
    valid = target != 0
    error = (logits - target)[valid]
    torch.testing.assert_close(terms["charbonnier"], ((error**2 + 0.25).sqrt() - 0.5).mean())
    torch.testing.assert_close(terms["powers"], 2 * (error.abs() ** 3).mean())
    with pytest.raises(InputError, match="Trained: must have no parameters or buffers"):
        _task("Depth", dict(type="Trained"))
    with pytest.raises(InputError, match="charbonnier: .*'epsilon'"):
        _task("Depth", dict(type="charbonnier", epsilon=1))
    logits, target = (torch.as_tensor(x) for x in _case("Segmentation"))
    assert _task("Segmentation", dict(type="HeadStyle")).loss(logits, target) > 0
    with pytest.raises(InputError, match="HeadStyle.* does not fit labels of depth"):
        _task("Depth", dict(type="HeadStyle"))


def test_a_task_with_its_own_loss_refuses_a_config():
    class Own(Task):
        label, out_channels = build_tasks(dict(d=dict(type="Depth")))["d"].label, 1

        def loss(self, logits, target):
            return logits.sum()

    assert Own("own").losses == {}
    with pytest.raises(InputError, match="`loss`: Own defines its own loss; remove `loss`"):
        Own("own", loss=dict(type="DepthL1"))


def test_a_subclass_may_extend_the_configured_loss():
    base = type(_task("Depth"))

    class More(base):
        def loss(self, logits, target):
            return 2 * super().loss(logits, target)

    logits, target = (torch.as_tensor(x) for x in _case("Depth"))
    expected = 2 * _task("Depth").loss(logits, target)
    assert More("more").loss(logits, target) == expected


def test_depth_limits_leave_out_labels():
    logits, target = (torch.as_tensor(x) for x in _case("Depth"))
    task = _task("Depth", min_depth=1.0, max_depth=6.0)
    inside = (target > 1) & (target < 6)
    assert 0 < inside.sum() < (target != 0).sum()
    assert task.loss_count(target) == inside.sum()
    torch.testing.assert_close(task.loss(logits, target), (logits - target)[inside].abs().mean())
    # the far end of the colour scale: black
    far = np.full((1, 1, 1), 5.9, np.float32)
    assert task.draw(far, {}).sum() < _task("Depth").draw(far, {}).sum()
    for wrong in (dict(min_depth=3, max_depth=3), dict(min_depth=-1), dict(max_depth=0)):
        with pytest.raises(InputError, match="t: `min_depth` and `max_depth` must be metres"):
            _task("Depth", **wrong)
