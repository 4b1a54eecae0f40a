"""Registries: children of MMSegmentation's, and new ones for tasks, PEFT methods, weightings.

A type is looked up here, then in MMSegmentation, then in MMEngine, so configs mix the three freely.
Nested components follow the same order. The default scope of the process does not matter: it may be
unset, or that of another library, whose transforms have the same names as ours.
"""

import contextlib
import importlib
import io
import warnings
from collections.abc import Generator

from mmengine.registry import DefaultScope, Registry

SCOPE = "vmt_mm"

# Nothing here needs these optional operators and packages of the libraries. Without the filters,
# their import notices would be the first thing a user sees.
warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")
warnings.filterwarnings("ignore", message=".*pkg_resources is deprecated.*")
with contextlib.redirect_stdout(io.StringIO()):
    import mmseg.registry as mmseg_registry

    for room in ("datasets", "engine", "evaluation", "models", "visualization"):
        importlib.import_module(f"mmseg.{room}")


class ScopedRegistry(Registry):
    """A registry that builds in this project's scope.

    MMEngine builds in the default scope of the process. Without a default scope it looks up nested
    components in its own registry only.
    """

    @contextlib.contextmanager
    def switch_scope_and_registry(self, scope: str | None) -> Generator[Registry, None, None]:
        """Switch to ``scope``; None keeps the default scope if it is ours or that of a child."""
        if scope is None:
            current = DefaultScope.get_current_instance()
            if current is None or self._search_child(current.scope_name) is None:
                scope = SCOPE
        with super().switch_scope_and_registry(scope) as registry:
            yield registry


class RunnerRegistry(ScopedRegistry):
    """A registry of runners, which set the default scope and need it after they are built."""

    @contextlib.contextmanager
    def switch_scope_and_registry(self, scope: str | None) -> Generator[Registry, None, None]:
        """Keep the default scope, unless another one is requested."""
        if scope in (None, SCOPE):
            yield self
            return
        with super().switch_scope_and_registry(scope) as registry:
            yield registry


def _child(name: str, *locations: str, kind: type[Registry] = ScopedRegistry) -> Registry:
    """Make a child of mmseg's registry ``name``; its modules are imported on first lookup."""
    parent = getattr(mmseg_registry, name)
    return kind(
        parent.name, parent=parent, scope=SCOPE, locations=[f"vmt_mm.{x}" for x in locations]
    )


DATASETS = _child("DATASETS", "datasets")
DATA_SAMPLERS = _child("DATA_SAMPLERS", "datasets")
TRANSFORMS = _child("TRANSFORMS", "datasets.transforms")
MODELS = _child("MODELS", "models")
EVALUATOR = _child("EVALUATOR", "evaluation")
METRICS = _child("METRICS", "evaluation")
_OF_ENGINE = ("averages", "checkpoint", "reports", "stopping")
_OF_ANALYSIS = ("analysis.counts", "analysis.gradient_conflict")
HOOKS = _child("HOOKS", *(f"engine.hooks.{name}" for name in _OF_ENGINE), *_OF_ANALYSIS)
OPTIM_WRAPPER_CONSTRUCTORS = _child("OPTIM_WRAPPER_CONSTRUCTORS", "engine.optimizers")
RUNNERS = _child("RUNNERS", "engine.runner", kind=RunnerRegistry)
LOOPS = _child("LOOPS", "engine.loops")
VISBACKENDS = _child("VISBACKENDS")
LOG_PROCESSORS = _child("LOG_PROCESSORS", "engine.runner")
# We register nothing in these yet; without them MMEngine warns at every lookup.
RUNNER_CONSTRUCTORS = _child("RUNNER_CONSTRUCTORS")
MODEL_WRAPPERS = _child("MODEL_WRAPPERS")
WEIGHT_INITIALIZERS = _child("WEIGHT_INITIALIZERS")
OPTIMIZERS = _child("OPTIMIZERS")
OPTIM_WRAPPERS = _child("OPTIM_WRAPPERS")
PARAM_SCHEDULERS = _child("PARAM_SCHEDULERS")
TASK_UTILS = _child("TASK_UTILS")
VISUALIZERS = _child("VISUALIZERS")
INFERENCERS = _child("INFERENCERS")

#: Dense tasks: label format, loss, prediction, metric, drawing.
TASKS = ScopedRegistry("task", scope=SCOPE, locations=["vmt_mm.tasks"])
#: Losses of tasks: functions or classes, see ``vmt_mm.tasks.losses``.
LOSSES = ScopedRegistry("loss", scope=SCOPE, locations=["vmt_mm.tasks"])
#: PEFT methods: how a frozen backbone is adapted.
PEFT_METHODS = ScopedRegistry("peft method", scope=SCOPE, locations=["vmt_mm.peft"])
#: Task weightings: how the losses of the tasks become one objective.
WEIGHTINGS = ScopedRegistry("weighting", scope=SCOPE, locations=["vmt_mm.weighting"])


def own_scope() -> contextlib.AbstractContextManager[Registry]:
    """Context in which constructors of other libraries build configs in this project's scope."""
    return MODELS.switch_scope_and_registry(None)
