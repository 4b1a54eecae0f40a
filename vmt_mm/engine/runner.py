"""A runner with atomic writing, safe reading and strict loading of checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mmengine.runner
import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import EMAHook, Hook
from torch import Tensor
from torch.utils.data import DataLoader

from vmt_mm.checkpoints import training_state
from vmt_mm.checkpoints.files import newest_checkpoint, read_checkpoint, to_plain
from vmt_mm.checkpoints.frozen import FrozenRecord, keys_left_out, strip_frozen
from vmt_mm.config.load import load_config
from vmt_mm.config.monitors import derive_rules
from vmt_mm.config.tree import check_start, check_work_dir
from vmt_mm.engine.hooks.stopping import FiniteLossHook, GracefulStopHook
from vmt_mm.errors import InputError
from vmt_mm.evaluation.task_metric import is_of_class
from vmt_mm.loading.model import describe, load_model
from vmt_mm.registry import LOG_PROCESSORS, RUNNERS, SCOPE, own_scope
from vmt_mm.utils.files import atomic_write, remove_partial, write_bytes
from vmt_mm.utils.memory import peak_resident
from vmt_mm.utils.modules import unwrap
from vmt_mm.utils.processes import on_main, start_worker

_AVERAGED = r"loss|time|grad_norm|^\w+\.\w+$"  # keys of which log lines show the mean
_START_NEW = "to start a new run from its weights, set load_from={} without --resume"


@LOG_PROCESSORS.register_module()
class LogProcessor(mmengine.runner.LogProcessor):
    """mmengine's ``LogProcessor``: also averages the terms of losses, ``<task>.<name>``.

    Log lines omit per-class metrics, which are logged as a table. The JSON log has the peak
    ``memory`` (MB) of the main process also without a GPU, and in the records of validations
    ``train_seconds``, the time of all training steps so far, with loading.
    """

    def __init__(self, *args: Any, mean_pattern: str = _AVERAGED, **kwargs: Any) -> None:
        super().__init__(*args, mean_pattern=mean_pattern, **kwargs)

    def get_log_after_iter(
        self, runner: mmengine.runner.Runner, batch_idx: int, mode: str
    ) -> tuple[dict[str, Any], str]:
        """Return the values by name, and the log line."""
        values, line = super().get_log_after_iter(runner, batch_idx, mode)
        if peak := peak_resident():
            values.setdefault("memory", peak // 2**20)
        return values, line

    def get_log_after_epoch(
        self, runner: mmengine.runner.Runner, *args: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], str]:
        """Return the metrics by name, and the log line."""
        metrics, line = super().get_log_after_epoch(runner, *args, **kwargs)
        for name, value in metrics.items():
            if is_of_class(name) and isinstance(value, float):
                line = line.replace(f"  {name}: {value:.{self.num_digits}f}", "", 1)
        steps = runner.message_hub.log_scalars.get("train/time")  # checkpoints contain it
        if steps is not None:
            metrics["train_seconds"] = float(steps.data[0].sum())
        return metrics, line


@RUNNERS.register_module()
class MultiTaskRunner(mmengine.runner.Runner):
    """mmengine's ``Runner`` with small, atomic and strictly loaded checkpoints.

    >>> MultiTaskRunner.from_cfg(load_config("config.py")).train()

    Only plain containers and tensors are read; no code is executed. The frozen backbone is omitted
    if its pretrained file has it, unless the checkpoint hook has ``save_frozen=True``. Missing and
    unexpected keys are errors, except missing ``new_tasks`` when training starts.
    ``resume=True`` without a file takes the newest complete checkpoint of the work dir.
    """

    #: Record of the frozen weights, which never change; made for the first checkpoint.
    _frozen: FrozenRecord | None = None
    _starts_training = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"default_scope": SCOPE, **options, **derive_rules(options)})
        if self._resume and self._load_from is None:
            self._load_from = on_main(lambda: newest_checkpoint(self.work_dir))
            self._resume = self._load_from is not None

    @classmethod
    def from_cfg(cls, cfg: Mapping[str, Any]) -> MultiTaskRunner:
        """Build a runner from a config; calls :func:`load_config` on it first."""
        cfg = load_config(cfg, world_size=get_world_size(), training=False)
        check_work_dir(cfg)
        cfg.setdefault("default_scope", SCOPE)
        return super().from_cfg(cfg)

    def register_default_hooks(self, hooks: Mapping[str, Any] | None = None) -> None:
        """Register the default hooks; None disables a hook, including ours."""
        given = (hooks or {}).items()
        super().register_default_hooks({k: Hook() if hook is None else hook for k, hook in given})

    def train(self) -> torch.nn.Module:
        """Train."""
        if not self._resume:
            check_start(self._load_from, self.work_dir)
        if self.rank == 0:
            remove_partial(Path(self.work_dir))
        self._starts_training = not self._resume
        try:
            return super().train()
        finally:
            for hook in self.hooks:
                if isinstance(hook, (FiniteLossHook, GracefulStopHook)):
                    hook.release()

    def _init_model_weights(self) -> None:
        # a checkpoint has all values, and the files of the initial values may be missing
        if self._load_from is None:
            super()._init_model_weights()

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> DataLoader:
        """Build a data loader whose workers survive the signals that end training."""
        if isinstance(dataloader, Mapping) and get_device() in ("cpu", "mps"):
            dataloader = {**dataloader, "pin_memory": False}  # PyTorch warns of it
        with own_scope():
            loader = mmengine.runner.Runner.build_dataloader(dataloader, *args, **kwargs)
        loader.worker_init_fn = partial(start_worker, loader.worker_init_fn)
        return loader

    def load_checkpoint(
        self, filename: str, map_location: str | Callable = "cpu", *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Load a checkpoint from a path or URL; raise InputError if it does not fit the model."""
        checkpoint = read_checkpoint(str(filename), map_location)
        if self._resume:
            _check_resumable(checkpoint, filename, self.hooks)
            checkpoint["meta"].pop("config", None)  # mmengine would execute it
        self._frozen, model = None, unwrap(self.model)
        done = partial(self.call_hook, "after_load_checkpoint", checkpoint=checkpoint)
        own, start_new = self._description(), self._starts_training
        load_model(model, checkpoint, str(filename), own, done, start_new)
        if self._resume:
            _follow_names(self, checkpoint)
            meta, here = (
                checkpoint["meta"],
                getattr(self.train_dataloader.dataset, "metainfo", None),
            )
            if repr(meta.get("dataset_meta")) == repr(here):
                meta["dataset_meta"] = here  # pickles, which mmengine compares, may differ
            self._restore_state(meta.get("processes", ()))
            if weighting := getattr(model, "weighting", None):
                weighting.load_state_dict(meta.get("weighting", {}))
        self._has_loaded = True
        return checkpoint

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Continue a checkpoint's training run; raise InputError if the config differs."""
        self._resume = True  # also if the config does not say so
        try:
            # on the CPU, where logs belong; weights and states move to the device when loaded
            super().resume(filename, *args, **{"map_location": "cpu", **kwargs})
        except (ValueError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            problem = f"{filename} comes from a different training run: {error}"
            raise InputError(f"{problem}; {_START_NEW.format(filename)}") from error
        sampler: Any = self.train_dataloader.sampler
        if hasattr(sampler, "seed"):
            sampler.seed = self.seed  # it was built before the checkpoint's seed was known

    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, meta: dict | None = None, **kwargs: Any
    ) -> None:
        """Write a checkpoint atomically, or raise InputError. All processes must call it."""
        meta = dict(meta or {}, vmt_mm=self._description(), processes=self._gather_state())
        if weighting := getattr(unwrap(self.model), "weighting", None):
            meta["weighting"] = weighting.state_dict()
        path, write = Path(out_dir) / filename, super().save_checkpoint

        def _write_atomically() -> None:
            try:
                with atomic_write(path) as partial:
                    write(out_dir, partial.name, *args, meta=meta, **kwargs)
            except OSError as error:
                newest = newest_checkpoint(self.work_dir) or "the start"
                advice = f"fix this and rerun with --resume, which continues from {newest}"
                raise InputError(f"{path} cannot be written: {error.strerror}; {advice}") from error

        on_main(_write_atomically)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call the hooks; after those before saving, convert the checkpoint to plain types."""
        super().call_hook(fn_name, **kwargs)
        if fn_name != "before_save_checkpoint":
            return
        checkpoint, model = kwargs["checkpoint"], unwrap(self.model)
        if "optimizer" in checkpoint:
            checkpoint["optimizer"] = training_state.named_state(self.optim_wrapper, model)
        if "param_schedulers" in checkpoint:
            checkpoint["param_schedulers"] = training_state.save_schedules(self.param_schedulers)
        for part in {"meta", "message_hub", "param_schedulers"} & checkpoint.keys():
            checkpoint[part] = to_plain(checkpoint[part])
        keys = keys_left_out(model)
        if keys and not any(getattr(hook, "save_frozen", False) for hook in self.hooks):
            self._frozen = self._frozen or FrozenRecord.of(model, keys)
            strip_frozen(checkpoint, keys, self._frozen)

    def dump_config(self) -> None:
        """Write the config to the work dir atomically, unless that would overwrite its source."""
        source = Path(self.cfg.filename or self.timestamp)
        path = Path(self.work_dir) / f"{source.stem}.py"  # also for a .json
        if self.rank == 0 and not (path.exists() and source.exists() and path.samefile(source)):
            write_bytes(path, self.cfg.pretty_text.encode())

    def _description(self) -> dict[str, Any]:
        cfg = self.cfg.get("model") or {}
        return describe(unwrap(self.model), cfg.get("module", cfg))  # `module` of a TTA model

    def _gather_state(self) -> list[dict[str, dict[str, Tensor]]]:
        """Gather the state that differs between processes: statistics, accumulated gradients."""
        model = unwrap(self.model)
        buffers = {k: v.cpu() for k, v in model.named_buffers() if v.is_floating_point()}
        grads = {k: p.grad.cpu() for k, p in model.named_parameters() if p.grad is not None}
        needed = grads or self.world_size > 1
        return all_gather_object(dict(buffers=buffers, gradients=grads)) if needed else []

    def _restore_state(self, gathered: Sequence[Mapping[str, Mapping[str, Tensor]]]) -> None:
        """Restore the state of this process if the number of processes is unchanged."""
        if len(gathered) != self.world_size:
            return
        mine, model = gathered[self.rank], unwrap(self.model)
        model.load_state_dict(mine["buffers"], strict=False)
        for name, gradient in mine["gradients"].items():
            parameter = model.get_parameter(name)
            parameter.grad = gradient.to(parameter)


def _check_resumable(content: Any, file: str, hooks: Iterable[Hook]) -> None:
    """Raise InputError unless a checkpoint has the state of a training run with these hooks."""
    parts = ("state_dict", "optimizer", "message_hub", "meta")
    missing = [key for key in parts if not isinstance(content, dict) or key not in content]
    missing += [] if missing else [key for key in ("epoch", "iter") if key not in content["meta"]]
    if missing:
        problem = f"{file} cannot be resumed: it has no {', '.join(missing)}"
        raise InputError(f"{problem}; {_START_NEW.format(file)}")
    averaged = any(isinstance(hook, EMAHook) for hook in hooks)
    if ("ema_state_dict" in content) != averaged:
        problem = f"only the {'config' if averaged else 'checkpoint'} has averages (an EMAHook)"
        advice = f"resume with the same custom_hooks; {_START_NEW.format(file)}"
        raise InputError(f"{file}: {problem}; {advice}")


def _follow_names(runner: MultiTaskRunner, checkpoint: dict[str, Any]) -> None:
    """Match the optimizer's state by name; raise ValueError if it comes from a different run.

    A run keeps its original order of tasks, since dropout is drawn task by task.
    """
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    if runner.param_schedulers is not None:
        runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    model: Any = unwrap(runner.model)
    if began := (checkpoint["meta"].get("vmt_mm") or {}).get("tasks"):
        model.tasks = {name: model.tasks[name] for name in began}
    own = training_state.named_state(runner.optim_wrapper, model)
    checkpoint["optimizer"], order = training_state.by_position(checkpoint["optimizer"], own)
    saved, schedules = checkpoint.get("param_schedulers", ()), runner.param_schedulers or ()
    ends = {runner.max_epochs, runner.max_iters}
    checkpoint["param_schedulers"] = training_state.match_schedules(saved, schedules, order, ends)
