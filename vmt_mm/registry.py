"""Registries: children of MMSegmentation's, and two of our own.

With ``default_scope = 'vmt_mm'`` a type is looked up here, then in MMSegmentation, then in
MMEngine, so configs mix the three freely.
"""

import contextlib
import importlib
import io
import warnings

from mmengine.registry import Registry

# Optional operators and packages of the libraries below that nothing here needs: their import
# notices would be the first thing a user sees.
warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")
warnings.filterwarnings("ignore", message=".*pkg_resources is deprecated.*")
with contextlib.redirect_stdout(io.StringIO()):
    import mmseg.registry as mmseg_registry

    for room in ("datasets", "engine", "evaluation", "models", "visualization"):
        importlib.import_module(f"mmseg.{room}")


def _child(name: str, *locations: str) -> Registry:
    """Make a child of mmseg's registry ``name``; its modules are imported on first lookup."""
    parent = getattr(mmseg_registry, name)
    return Registry(
        parent.name, parent=parent, scope="vmt_mm", locations=[f"vmt_mm.{x}" for x in locations]
    )


DATASETS = _child("DATASETS", "datasets")
DATA_SAMPLERS = _child("DATA_SAMPLERS", "datasets")
TRANSFORMS = _child("TRANSFORMS", "datasets.transforms")
MODELS = _child("MODELS", "models")
EVALUATOR = _child("EVALUATOR", "evaluation")
METRICS = _child("METRICS", "evaluation")
HOOKS = _child("HOOKS", "engine.hooks")
OPTIM_WRAPPER_CONSTRUCTORS = _child("OPTIM_WRAPPER_CONSTRUCTORS", "engine.optimizers")
RUNNERS = _child("RUNNERS", "engine.runner")
LOOPS = _child("LOOPS", "engine.loops")
VISBACKENDS = _child("VISBACKENDS", "visualization.backend")
# Nothing of ours is in these yet; without them MMEngine warns at every lookup.
RUNNER_CONSTRUCTORS = _child("RUNNER_CONSTRUCTORS")
MODEL_WRAPPERS = _child("MODEL_WRAPPERS")
WEIGHT_INITIALIZERS = _child("WEIGHT_INITIALIZERS")
OPTIMIZERS = _child("OPTIMIZERS")
OPTIM_WRAPPERS = _child("OPTIM_WRAPPERS")
PARAM_SCHEDULERS = _child("PARAM_SCHEDULERS")
TASK_UTILS = _child("TASK_UTILS")
VISUALIZERS = _child("VISUALIZERS")
LOG_PROCESSORS = _child("LOG_PROCESSORS")
INFERENCERS = _child("INFERENCERS")

#: What a dense task means: label format, loss, prediction, metric, drawing.
TASKS = Registry("task", scope="vmt_mm", locations=["vmt_mm.tasks"])
#: How a frozen encoder is adapted.
PEFT_METHODS = Registry("peft method", scope="vmt_mm", locations=["vmt_mm.peft"])
