"""The base classes of task weightings. Notation: T tasks, L_i loss of task i, w_i its weight."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, ClassVar

import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import WEIGHTINGS

#: Least loss of which weightings take the logarithm.
_LEAST = 1e-8


class Weighting:
    """Base class: an objective of the tasks' losses; w_i is its derivative by L_i.

    A weighting gets the losses times their ``loss_weight``, averaged over all processes, so that
    its weights are equal in all of them. A task without labels in the batch is left out, and with
    ``takes_logarithms`` also one whose loss is 0 or less.

    The state belongs to the training run, like that of the optimizer: checkpoints contain it and a
    resumed run continues it, but it is not part of the model. Subclasses implement
    :meth:`objective`, keep all values that change in ``state``, and may override
    :meth:`begin_update`. Vectors (T,) are in the order of ``tasks``.

    Attributes:
        tasks: names of the trained tasks, sorted.
        state: tensors and numbers that change during training, by name.
        epoch: number of finished passes over the training data; the training loop sets it.
        new_update: whether the next batch begins an update of the parameters, which consists of
            several batches with gradient accumulation; the training loop sets it.
    """

    takes_logarithms: ClassVar[bool] = False
    unread: ClassVar[Mapping[str, str]] = dict(tasks="weightings get all trained tasks")

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(sorted(tasks))
        self.state: dict[str, Any] = {}
        self.epoch, self.new_update = 0, True
        #: what a resumed run must have in common with this one
        self.config: dict[str, Any] = dict(type=type(self).__name__, tasks=list(self.tasks))

    def begin_update(self, losses: Tensor, present: Tensor) -> None:
        """Prepare an update; the arguments are those of :meth:`objective` for its first batch."""

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Return the objective (scalar) of losses (T,); ``present`` (T,) is False without labels.

        Losses of absent tasks are 0, and their derivatives must be 0.
        """
        raise NotImplementedError

    def __call__(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return objective (scalar) and weights (T,), both detached."""
        losses = losses.detach()
        if self.takes_logarithms:
            present = present & (losses > _LEAST)
            losses = torch.where(present, losses, 0)
        moved = {k: v.to(losses) for k, v in self.state.items() if isinstance(v, Tensor)}
        self.state.update(moved)
        with torch.autocast(losses.device.type, enabled=False):
            if self.new_update:
                self.begin_update(losses, present)
            with torch.enable_grad():
                losses.requires_grad_()
                objective = self.objective(losses, present)
                (weights,) = torch.autograd.grad(objective, losses)
        return objective.detach(), weights

    def begin_mean(self, name: str) -> None:
        """Begin a mean per task over batches: sum ``state[name]``, number "batches"."""
        zeros = torch.zeros_like(self.state.get("batches", torch.zeros(len(self.tasks))))
        self.state |= {name: zeros, "batches": zeros}

    def add_to_mean(self, name: str, values: Tensor, present: Tensor) -> None:
        """Add the values (T,) of a batch, of tasks that are ``present`` (T,)."""
        total = self.state[name] + torch.where(present, values.detach(), 0)
        self.state |= {name: total, "batches": self.state["batches"] + present}

    def mean(self, name: str) -> Tensor:
        """Return the mean (T,); NaN for a task without a batch."""
        return self.state[name] / self.state["batches"]

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return dict(config=self.config, state=dict(self.state))

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; raise ValueError if it is of another weighting."""
        theirs = content.get("config", self.config)
        for key in (*self.config, *theirs):
            was, now = theirs.get(key), self.config.get(key)
            if was != now:
                raise ValueError(f"{key} of model.weighting: {was!r} there, {now!r} in the config")
        self.state = dict(content.get("state", self.state))


@WEIGHTINGS.register_module()
class FixedWeighting(Weighting):
    """Sum of the losses: each task has its ``loss_weight``. The default."""

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Return sum_i L_i."""
        return losses.sum()


class LearnedWeighting(Weighting):
    """Base class of weightings with one parameter per task, which Adam trains (arXiv:1412.6980).

    They are not parameters of the model: they have their own learning rate, no schedule and no
    gradient clipping. Their gradient depends on the averaged losses only, so that it is equal in
    all processes.

    Args:
        lr: learning rate.
        initial: initial value of the parameters.
        weight_decay: factor of the parameters that is added to their gradient.
    """

    def __init__(
        self, tasks: Sequence[str], lr: float, initial: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(tasks)
        check_positive(lr=lr)
        self.lr, self.weight_decay = lr, weight_decay
        zeros = torch.zeros(len(self.tasks))
        names = ("momentum", "squares", "steps")
        self.state = dict(parameters=zeros + initial, **{name: zeros.clone() for name in names})

    def step(self, gradient: Tensor, known: Tensor) -> None:
        """Update the parameters by their gradient (T,), where it is ``known`` (T,)."""
        names = ("parameters", "momentum", "squares", "steps")
        values, momentum, squares, steps = old = [self.state[name] for name in names]
        gradient, steps = gradient + self.weight_decay * values, steps + 1
        momentum, squares = momentum.lerp(gradient, 0.1), squares.lerp(gradient**2, 0.001)
        mean, deviation = momentum / (1 - 0.9**steps), (squares / (1 - 0.999**steps)).sqrt()
        new = (values - self.lr * mean / (deviation + 1e-8), momentum, squares, steps)
        for name, before, after in zip(names, old, new, strict=True):
            self.state[name] = torch.where(known, after, before)


def softmax_present(logits: Tensor, present: Tensor) -> Tensor:
    """Softmax (T,) over the tasks that are present; 0 for the others."""
    return torch.where(present, logits, -torch.inf).softmax(0).nan_to_num(nan=0)


def safe_log(losses: Tensor) -> Tensor:
    """Logarithm of losses (T,), with derivative 0 where it is not defined."""
    return losses.clamp(min=_LEAST).log()


def check_positive(**options: Any) -> None:
    """Raise InputError unless all options are positive numbers."""
    for name, value in options.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < inf:
            raise InputError(f"model.weighting: `{name}` must be a positive number, got {value!r}")


def build_weighting(cfg: Mapping[str, Any] | None, tasks: Sequence[str]) -> Weighting:
    """Build the weighting of config ``cfg``; None means :class:`FixedWeighting`."""
    if cfg is None:
        return FixedWeighting(tasks)
    kind = cfg.get("type") if isinstance(cfg, Mapping) else None
    if kind is None or (isinstance(kind, str) and WEIGHTINGS.get(kind) is None):
        known = ", ".join(sorted(WEIGHTINGS.module_dict))
        rule = f"must be a dict with a `type` among {known}"
        raise InputError(f"model.weighting {rule}; got {cfg!r}")
    try:
        built = WEIGHTINGS.build(dict(cfg), default_args=dict(tasks=tasks))
    except TypeError as error:  # a missing argument, or one of another type
        raise InputError(f"model.weighting: {error}") from error
    built.config |= {key: value for key, value in cfg.items() if key != "type"}
    return built
