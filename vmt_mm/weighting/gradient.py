"""Gradient methods. Notation: J (T, P), gradients of the T tasks' losses by P shared values."""

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, get_world_size
from scipy.optimize import nnls
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import WEIGHTINGS
from vmt_mm.utils.compat import autocast_dtype
from vmt_mm.utils.modules import restored_generators
from vmt_mm.weighting.weighting import Weighting


@WEIGHTINGS.register_module()
class GradientAggregation(Weighting):
    """Replaces the sum of the tasks' gradients by an aggregate that TorchJD computes from J.

    Parameters of one task, such as its head's, keep their gradient. J is the mean over processes,
    one per batch. Random orders are equal in all processes and resumed; a resumed run does not have
    the memory of GradVac, NashMTL, PCD and ExcessMTL. Raises InputError if a library is missing.

    Args:
        aggregator: name of a class of ``torchjd.aggregation``, such as 'UPGrad'.
        on: J has the gradients by shared 'parameters', with one backward pass through the backbone
            per task, or by 'features' that are common to all tasks, with one pass.
        options: numbers and strings for the aggregator.
    """

    forwards_arguments = True  # to the aggregator, which checks them

    def __init__(
        self, tasks: Sequence[str], aggregator: str, on: str = "parameters", **options: Any
    ) -> None:
        super().__init__(tasks)
        if on not in ("parameters", "features"):
            raise _error(f"`on` must be 'parameters' or 'features', got {on!r}")
        self.on, self.name = on, aggregator
        self.aggregator = _build_aggregator(aggregator, options, len(self.tasks))
        self._weight = getattr(self.aggregator, "gramian_weighting", None)
        if on == "features" and not self._weight:
            raise _error(f"{aggregator} does not only use products of gradients; use 'parameters'")
        self.state = dict(batches=0)

    def prepare(self, backbone: Any) -> None:
        """Run the backbone's tasks apart; raise InputError if they share nothing it can train."""
        method, name = backbone.peft, type(backbone.peft).__name__
        if not any(p.requires_grad for p in backbone.parameters()):
            raise _error(f"needs trainable parameters in the backbone; {name} has none")
        if self.on == "features" and not method.shares_features:
            raise _error(f"{name} has no features that all tasks share; use on='parameters'")
        if backbone._compiled_loop:  # its backward pass has zeros for other tasks' parameters
            raise _error("cannot tell which tasks share a parameter of a compiled backbone")
        backbone.batch_tasks = False  # else one task's backward pass runs through all tasks

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        """Return sum_i L_i, for the log; count the batches."""
        self.state["batches"] += 1
        return losses.sum()

    def aggregate(
        self,
        losses: Mapping[str, Tensor],
        present: Tensor,
        tensors: Sequence[Tensor],
        owners: Sequence[str | None],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a scalar 0 with the aggregated gradients by ``tensors``, and weights by task.

        ``owners`` has the task that alone uses a tensor, or None. There are no weights if the
        aggregator has none. Uses up the graph of the losses (scalars);
        a task that is not ``present`` (T,) in any process is left out.
        """
        if autocast_dtype(tensors[0].device.type) == torch.float16:
            raise _error("gradient methods need bfloat16 (--amp) or float32, got float16")
        names = [name for name, known in zip(self.tasks, present.tolist(), strict=True) if known]
        if len(names) < len(self.tasks) and hasattr(self.aggregator, "reset"):
            raise _error(f"{self.name} remembers all tasks, but a batch has labels of {names} only")
        found = task_gradients({name: losses[name] for name in names}, tensors, owners)
        gradients, columns, weights = [], {}, {}
        by_tensor = zip(*found, strict=True) if found else [()] * len(tensors)
        for index, (x, own) in enumerate(zip(tensors, by_tensor, strict=True)):
            given, zero = [g for g in own if g is not None], torch.zeros_like(x)
            gradients.append(given[0] if given else zero)
            if len(given) > 1:
                filled = [zero if g is None else g for g in own]
                columns[index] = torch.stack(filled).reshape(len(filled), -1)  # a scalar, too
        if columns:
            vector, values = self._aggregate(torch.cat([*columns.values()], dim=1))
            weights = dict(zip(names, values, strict=False))
            parts = vector.split([x.shape[1] for x in columns.values()])
            for index, part in zip(columns, parts, strict=True):
                gradients[index] = part.view_as(tensors[index]).to(tensors[index].dtype)
        elif len(names) > 1:
            raise _error("the tasks share no trainable parameter, which gradient methods need")
        products = [(x * g).sum() for x, g in zip(tensors, gradients, strict=True)]
        product = torch.stack(products).sum()  # whose gradients are these
        return product - product.detach(), weights

    @torch.no_grad()
    def _aggregate(self, rows: Tensor) -> tuple[Tensor, Tensor | Sequence]:
        """Return the aggregate (P,) of J (T, P), and weights (T,), or () without."""
        device = rows.device
        generators = restored_generators([] if device.type == "cpu" else [device])
        with torch.autocast(device.type, enabled=False), generators:
            torch.manual_seed(self.state["batches"])  # equal in all processes
            rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
            if self.on == "parameters":
                all_reduce(rows, "mean")
            products = (rows @ rows.T).double()
            if self.on == "features":  # a process has the gradients by its own images
                all_reduce(products)
                products /= get_world_size() ** 2
            if not products.isfinite().all():  # FiniteLossHook decides
                return rows.sum(0), ()
            if not self._weight:
                return self.aggregator(rows), ()
            weights = self._weight(products.cpu()).to(rows)
            return weights @ rows, weights


def task_gradients(
    losses: Mapping[str, Tensor], tensors: Sequence[Tensor], owners: Sequence[str | None]
) -> list[list[Tensor | None]]:
    """Return the gradients of each task's loss by the tensors, None if it does not depend on one.

    ``owners`` has the task that alone uses a tensor, or None: tasks that run in one batch give zero
    gradients to each other's parameters. Runs one backward pass per loss; the last one frees the
    graph.
    """
    found, left = [], len(losses)
    with torch.autocast(tensors[0].device.type, enabled=False):
        for task, loss in losses.items():
            left -= 1
            given = torch.autograd.grad(loss, tensors, retain_graph=left > 0, allow_unused=True)
            pairs = zip(given, owners, strict=True)
            found.append([g if owner in (None, task) else None for g, owner in pairs])
    return found


def _build_aggregator(name: str, options: Mapping[str, Any], tasks: int) -> Any:
    """Build the aggregator of J with ``tasks`` rows."""
    try:
        library = import_module("torchjd.aggregation")
    except ImportError as error:
        raise _error(f"needs torchjd, install it with `pip install torchjd`: {error}") from None
    found = {
        key: getattr(library, key) for key in library.__all__ if not key.endswith("Aggregator")
    }
    known = [key for key, kind in found.items() if issubclass(kind, library.Aggregator)]
    if name not in known:
        raise _error(f"`aggregator` must be one of {', '.join(known)}; got {name!r}")
    if unfit := [key for key, x in options.items() if not isinstance(x, (int, float, str))]:
        raise _error(f"{unfit} must be numbers or strings; loss_weight sets a task's share")
    own: dict[str, Any] = dict(n_tasks=tasks, projector=_project_on_dual_cone)
    taken = inspect.signature(found[name]).parameters
    try:
        aggregator = found[name](**{k: x for k, x in own.items() if k in taken}, **options)
        aggregator(torch.eye(tasks))  # some options are only read here
    except (ImportError, TypeError, ValueError) as error:
        raise _error(f"{name}: {error}") from None
    getattr(aggregator, "reset", lambda: None)()
    return aggregator


def _project_on_dual_cone(u: Tensor, products: Tensor) -> Tensor:
    """Return the v >= u of smallest v^T J J^T v, for each row of u (..., T).

    For UPGrad (arXiv:2406.16232, Prop. 1), since TorchJD's solver is under the GPL. With v = u + z
    and J J^T = R R, z >= 0 minimises |R z + R u|.
    """
    values, vectors = np.linalg.eigh(products.double().cpu().numpy())
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    projected = np.apply_along_axis(lambda x: x + nnls(root, -root @ x)[0], -1, u.cpu().numpy())
    return torch.as_tensor(projected).to(u)


def _error(problem: str) -> InputError:
    return InputError(f"model.weighting: GradientAggregation: {problem}")
