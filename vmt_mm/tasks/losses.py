"""Losses by config: those of this module, those of mmseg, and your own.

A loss is called with logits (N, C, H, W), labels (N, c, H, W) and the mask of their valid pixels
(N, 1, H, W), and returns a mean over these pixels: a scalar, 0 with a gradient function if there
are none. It is a function with options as keywords, or a class.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.registry import LOSSES, MODELS, TASK_UTILS
from vmt_mm.tasks.labels import IGNORE

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
_MANY_CLASSES = 16  # with fewer, softmax over channels-last is slower than a copy to channels-first
_LEAST = 0.1  # least prediction / label of which losses use the logarithm
#: Content of labels -> the losses that fit, of this module and of mmseg.
FITTING = dict(
    classes="CrossEntropy CrossEntropyLoss FocalLoss DiceLoss TverskyLoss LovaszLoss "
    "OhemCrossEntropy",
    foreground="BCE CrossEntropyLoss FocalLoss DiceLoss LovaszLoss BoundaryLoss",
    depth="DepthL1 LogL1 BerHu SILog GradientMatching",
    normals="NormalsL1 Cosine Angular",
)
_KNOWN = {*" ".join(FITTING.values()).split(), "HuasdorffDisstanceLoss"}  # it knows one class only


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of values (N, K, H, W) over the valid pixels (N, 1, H, W); 0 without any."""
    return (values * valid).sum() / (values.shape[1] * valid.sum()).clamp(min=1)


@LOSSES.register_module("CrossEntropy")
def cross_entropy(
    logits: Tensor,
    target: Tensor,
    valid: Tensor,
    *,
    class_weight: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Softmax cross-entropy; a pixel counts by the weight of its class, as in PyTorch."""
    index, pixels = target[:, 0].long(), logits.permute(0, 2, 3, 1)
    # Flattening channels-last logits needs no copy; CUDA has no deterministic 2D loss.
    channels_last = pixels.is_contiguous() and logits.shape[1] >= _MANY_CLASSES
    if channels_last or torch.are_deterministic_algorithms_enabled():
        logits, index = pixels.flatten(0, 2), index.flatten()
    weight = None if class_weight is None else logits.new_tensor(class_weight)
    options: Any = dict(reduction="sum", label_smoothing=label_smoothing)
    total = F.cross_entropy(logits, index, weight, ignore_index=IGNORE, **options)
    if weight is None:
        return total / valid.sum().clamp(min=1)
    return total / weight[target[valid].long()].sum().clamp(min=torch.finfo(weight.dtype).tiny)


@LOSSES.register_module("FocalLoss")
def focal(
    logits: Tensor,
    target: Tensor,
    valid: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | Sequence[float] = 0.5,
    class_weight: Sequence[float] | None = None,
    use_sigmoid: bool = True,
) -> Tensor:
    """Focal loss (arXiv:1708.02002) of one sigmoid per class, mean over pixels and classes.

    Defined as in mmseg, whose own fails on CPUs, and on GPUs without compiled operators.
    """
    if not use_sigmoid:
        raise InputError("`use_sigmoid` must be True")
    count = logits.shape[1]
    truth = target == (torch.arange(count, device=logits.device).view(-1, 1, 1) if count > 1 else 1)
    share, weight = (logits.new_tensor(x).view(-1, 1, 1) for x in (alpha, class_weight or 1.0))
    error = torch.where(truth, -logits, logits)  # logit of the probability of being wrong
    values = F.softplus(error) * (gamma * F.logsigmoid(error)).exp()
    return masked_mean(values * weight * torch.where(truth, share, 1 - share), valid)


@LOSSES.register_module("BCE")
def bce(
    logits: Tensor,
    target: Tensor,
    valid: Tensor,
    *,
    positive_weight: float | str = "balanced",
    pos_weight: float | None = None,
) -> Tensor:
    """Binary cross-entropy, weight w = ``positive_weight`` for positives and 1 - w for others.

    'balanced' means w = negatives / valid pixels of the batch. With ``pos_weight`` as in PyTorch,
    it is the weight of positives, and that of others is 1.
    """
    positive, share = (target == 1) & valid, positive_weight
    if share == "balanced":
        share = ((target == 0) & valid).sum() / valid.sum().clamp(min=1)
    elif isinstance(share, str) or not 0 < share < 1:
        raise InputError(f"`positive_weight` must be 'balanced' or in (0, 1), got {share!r}")
    if not (pos_weight is None or pos_weight > 0):
        raise InputError(f"`pos_weight` must be positive, got {pos_weight!r}")
    rest, more = (1 - share, 2 * share - 1) if pos_weight is None else (1, pos_weight - 1)
    truth, weight = positive.to(logits.dtype), (valid * rest + positive * more).to(logits.dtype)
    total = F.binary_cross_entropy_with_logits(logits, truth, weight, reduction="sum")
    return total / valid.sum().clamp(min=1)


@LOSSES.register_module("DepthL1")
def depth_l1(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """L1 loss in metres."""
    return masked_mean((logits - target).abs(), valid)


def _log_ratio(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Logarithm of prediction / label; 0 where invalid.

    Below a tenth it is continued by its tangent, so that depths <= 0 have a gradient.
    """
    ratio = logits / torch.where(valid, target, 1)
    return (ratio.clamp(min=_LEAST).log() + (ratio - _LEAST).clamp(max=0) / _LEAST) * valid


@LOSSES.register_module("LogL1")
def log_l1(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """L1 loss between logarithms of depths."""
    return masked_mean(_log_ratio(logits, target, valid).abs(), valid)


@LOSSES.register_module("BerHu")
def berhu(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Reverse Huber loss (arXiv:1606.00373): L1 up to c = largest error / 5, (e^2 + c^2) / 2c."""
    error = (logits - target).abs() * valid
    c = (error.detach().max() / 5).clamp(min=torch.finfo(error.dtype).tiny)
    return masked_mean(torch.where(error <= c, error, (error**2 + c**2) / (2 * c)), valid)


@LOSSES.register_module("SILog")
def silog(logits: Tensor, target: Tensor, valid: Tensor, *, lam: float = 0.5) -> Tensor:
    """Scale-invariant loss (arXiv:1406.2283, eq. 4) per image: mean d^2 - lam (mean d)^2."""
    if not 0 <= lam <= 1:
        raise InputError(f"`lam` must be in [0, 1], got {lam!r}")
    d, count = _log_ratio(logits, target, valid).flatten(1), valid.flatten(1).sum(1)
    pixels = count.clamp(min=1)
    values = (d**2).sum(1) / pixels - lam * (d.sum(1) / pixels) ** 2
    return values.sum() / (count > 0).sum().clamp(min=1)


@LOSSES.register_module("GradientMatching")
def gradient_matching(logits: Tensor, target: Tensor, valid: Tensor, *, scales: int = 4) -> Tensor:
    """Gradient matching (arXiv:1804.00607, eq. 3), an addition to another loss for sharp edges.

    Sum of abs(d - d of a neighbour), both valid, per valid pixel; summed over scales of 1/2^k.
    """
    d, terms = _log_ratio(logits, target, valid), []
    for step in (2**k for k in range(scales)):
        part, known = d[..., ::step, ::step], valid[..., ::step, ::step]
        for axis in (2, 3):
            count = part.shape[axis] - 1
            both = known.narrow(axis, 0, count) & known.narrow(axis, 1, count)
            terms.append((part.diff(dim=axis).abs() * both).sum() / known.sum().clamp(min=1))
    return torch.stack(terms).sum()


@LOSSES.register_module("NormalsL1")
def normals_l1(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """L1 loss between normalised prediction and target, mean over the components."""
    return masked_mean((F.normalize(logits, dim=1) - target).abs(), valid)


def _cosine_and_sine(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (N, 1, H, W) of the angle; constants 0 and 1 at vector 0."""
    unit = F.normalize(logits, dim=1)
    near = (unit * target).sum(dim=1, keepdim=True)
    away = torch.linalg.cross(unit, target, dim=1).norm(dim=1, keepdim=True)
    known = near.abs() + away > 0.5  # at least 1 for unit vectors
    return torch.where(known, near, 0), torch.where(known, away, 1)


@LOSSES.register_module("Angular")
def angular(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Angle in radians; gradients are 0 at angles 0 and pi and at vector 0."""
    near, away = _cosine_and_sine(logits, target)
    return masked_mean(torch.atan2(away, near), valid)


@LOSSES.register_module("Cosine")
def cosine(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - cosine of the angle; gradients as those of ``Angular``."""
    return masked_mean(1 - _cosine_and_sine(logits, target)[0], valid)


class MmsegLoss:
    """A loss of mmseg, called on the valid pixels only; with ignored ones, most are wrong or fail.

    ``sampler`` is the config of mmseg's ``OHEMPixelSampler``, for ``CrossEntropyLoss``.
    """

    ignore_index = IGNORE  # read by the sampler

    def __init__(self, kind: type, channels: int, sampler: Any = None, **options: Any) -> None:
        self.name, one = kind.__name__, channels == 1
        self.per_image = options.get("per_image", self.name in ("DiceLoss", "TverskyLoss"))
        fixed, defaults = dict[str, tuple[dict, dict]](
            CrossEntropyLoss=(dict(reduction="mean", avg_non_ignore=True), dict(use_sigmoid=one)),
            LovaszLoss=(
                dict(reduction="mean" if self.per_image else "none"),
                dict(loss_type="binary" if one else "multi_class"),
            ),
            DiceLoss=(dict(reduction="mean"), {}),
        ).get(self.name, ({}, {}))
        for key in fixed:
            if options.get(key, fixed[key]) != fixed[key]:
                raise InputError(f"`{key}` must be {fixed[key]!r}, got {options[key]!r}")
        if sampler and self.name != "CrossEntropyLoss":
            raise InputError("`sampler` needs type='CrossEntropyLoss'")
        self.module = self.loss_decode = kind(**{**defaults, **options, **fixed})
        self.sampler = sampler and TASK_UTILS.build(dict(sampler), default_args=dict(context=self))

    def __call__(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the loss."""
        if not valid.any():
            return logits.sum() * 0
        index, mask = target[:, 0].long(), valid[:, 0]
        if self.name not in _KNOWN:
            rows = mask.flatten(1).any(dim=1)
            return self.module(logits[rows], index[rows], ignore_index=IGNORE)
        pixels = logits.permute(0, 2, 3, 1)
        if self.name == "CrossEntropyLoss":
            weight = self.sampler.sample(logits, target)[mask] if self.sampler else None
            return self.module(pixels[mask], index[mask], weight=weight)
        images = zip(pixels, index, mask, strict=True)
        images = images if self.per_image else [(pixels, index, mask)]
        return torch.stack([self._of(x[v], y[v]) for x, y, v in images if v.any()]).mean()

    def _of(self, pixels: Tensor, index: Tensor) -> Tensor:
        """Return the loss of valid pixels (P, C) with classes (P,), as an image of P x 1 pixels."""
        logits, label = pixels.T[None, :, :, None], index[None, :, None]
        if logits.shape[1] == 1:  # mmseg's Dice would take the background as the foreground
            label = label[:, None]
        options = dict(ignore_index=None) if self.name == "LovaszLoss" else {}
        value = self.module(logits, label, **options)
        if self.name == "OhemCrossEntropy" and value.isnan():  # no pixel is hard
            return pixels.sum() * 0
        return value


def build_losses(cfg: Any, content: str | None, channels: int) -> dict[str, tuple[float, Loss]]:
    """Build the losses of a config, or of a list of configs: name -> weight and loss.

    ``content`` of the labels is a key of ``FITTING``; None accepts all losses without a trial.
    """
    losses: dict[str, tuple[float, Loss]] = {}
    entries = [cfg] if isinstance(cfg, Mapping) else cfg
    if not entries or not isinstance(entries, (list, tuple)):
        raise InputError(f"`loss` must be a config such as dict(type=...), or a list, got {cfg!r}")
    for entry in entries:
        options = dict(entry) if isinstance(entry, Mapping) else dict(type=entry)
        kind, weight = options.pop("type", None), options.pop("loss_weight", 1.0)
        label = str(getattr(kind, "__name__", kind)).split(".")[-1]
        default = options.pop("loss_name", label.removesuffix("Loss").lower())  # as in mmseg
        name = options.pop("name", str(default).removeprefix("loss_"))
        if not isinstance(weight, (int, float)) or not 0 <= weight < inf:
            raise InputError(f"`loss_weight` of loss {label} must be a number >= 0, got {weight!r}")
        if not str(name).isidentifier() or "loss" in name or name in losses:
            rule = "must be an identifier without 'loss' that no other loss of the task has"
            raise InputError(f"`name` of loss {label} {rule}, got {name!r}")
        losses[name] = float(weight), _build(kind, label, content, channels, options)
    return losses


def _build(kind: Any, label: str, content: str | None, channels: int, options: dict) -> Loss:
    own: Any = LOSSES.module_dict.get(kind) if isinstance(kind, str) else kind
    found, fitting = own or MODELS.get(str(kind)), FITTING.get(content or "", "").split()
    fits = label in fitting or label not in _KNOWN and (own or "DiceLoss" in fitting)
    if not found or (content and not fits):
        what = f"does not fit labels of {content}" if found else "is unknown"
        raise InputError(f"`loss`: type {label!r} {what}; known: {fitting}, and your own")
    try:
        if not own:
            loss: Any = MmsegLoss(found, channels, **options)
        elif inspect.isclass(own):
            loss = own(**options)
        else:
            inspect.signature(own).bind(None, None, None, **options)
            loss = functools.partial(own, **options)
        if isinstance(module := getattr(loss, "module", loss), nn.Module) and module.state_dict():
            raise InputError("must have no parameters or buffers, which would not be trained")
        if content and (label in fitting or not own):
            _try(loss, content, channels)
    except Exception as error:
        raise InputError(f"`loss`: {label}: {error}") from error
    return loss


def _try(loss: Loss, content: str, channels: int) -> None:
    """Raise an error if a loss fails on labels of this content."""
    with torch.enable_grad(), torch.device("cpu"):
        steps = torch.arange(2 * 64 * 64).view(2, 1, 64, 64)
        up = torch.eye(3)[1].view(1, 3, 1, 1).expand(2, 3, 64, 64)
        target = dict(depth=1 + steps / steps.numel(), normals=up).get(content)
        target = steps.remainder(max(channels, 2)).byte() if target is None else target
        logits = torch.linspace(-1, 1, channels * steps.numel()).view(2, channels, 64, 64)
        value = loss(logits.requires_grad_(), target, steps >= 0)
        if value.ndim or not value.requires_grad or not value.isfinite():
            raise ValueError(f"must return a finite scalar with a gradient, got {value!r}")
