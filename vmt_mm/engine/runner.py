"""A runner whose checkpoints are whole, safe to read, and fit the model or say why not."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mmengine.runner
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_gather_object, get_world_size
from torch import Tensor
from torch.utils.data import DataLoader

from vmt_mm.checkpoints.files import read_checkpoint, to_plain
from vmt_mm.checkpoints.frozen import FrozenRecord, keys_left_out, strip_frozen
from vmt_mm.checkpoints.newest import newest_checkpoint
from vmt_mm.config.dump import OrderedConfig
from vmt_mm.config.files import check_start, check_work_dir
from vmt_mm.config.load import load_config
from vmt_mm.config.monitors import derive_rules, rule_faults
from vmt_mm.engine.hooks.graceful_stop import GracefulStopHook
from vmt_mm.engine.log_processor import LogProcessor
from vmt_mm.engine.resuming import check_resumable, follow_names, keep_names
from vmt_mm.errors import InputError
from vmt_mm.loading.model import describe, load_model
from vmt_mm.registry import RUNNERS, SCOPE, own_scope
from vmt_mm.utils.compat import need
from vmt_mm.utils.files import atomic_write, remove_partial, write_bytes
from vmt_mm.utils.modules import unwrap
from vmt_mm.utils.processes import on_main, start_worker

#: Hooks that mmengine adds where a config does not name them.
_OF_MMENGINE = (
    "runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint"
)  # fmt: skip
#: Devices to which nothing is copied from pinned memory.
_WITHOUT_PINNED_MEMORY = ("cpu", "mps")


@RUNNERS.register_module()
class MultiTaskRunner(mmengine.runner.Runner):
    """mmengine's ``Runner``, with other rules for checkpoints.

    - They are written atomically and hold plain containers and tensors alone; nothing else is
      unpickled when they are read.
    - They hold what trains, and what the encoder's file does not have. Its frozen weights come from
      that file again, and must be the same. The checkpoint hook's ``save_frozen=True`` saves them
      too, and so does an encoder that came from no file.
    - Loading is strict: what does not fit is an error that gives both values. Where a training
      starts, the model's ``new_tasks`` may be absent from the file.
    - ``resume=True`` without a file takes the newest whole checkpoint of the work dir.
    - What goes by a result of the validation learns from its metric which way it is better.
    - The environment and the config are logged once model and data could be built, so that an
      error is not found below them.
    """

    #: Of the frozen weights, which never change: made for the first checkpoint.
    _frozen: FrozenRecord | None = None

    def __init__(self, *args: Any, cfg: Config | Mapping | None = None, **kwargs: Any) -> None:
        cfg = cfg if isinstance(cfg, Config) else Config(dict(cfg or {}))
        given = inspect.signature(mmengine.runner.Runner).bind(*args, **kwargs).arguments
        if faults := [*rule_faults(given, training=False)]:
            raise InputError("\nerror: ".join(faults))
        options = {"default_scope": SCOPE, **given, **derive_rules(given)}
        super().__init__(cfg=OrderedConfig.of(cfg), **options)
        self._starts_training = False
        if self._resume and self._load_from is None:
            self._load_from = on_main(lambda: newest_checkpoint(self.work_dir))
            self._resume = self._load_from is not None

    @classmethod
    def from_cfg(cls, cfg: Mapping[str, Any]) -> MultiTaskRunner:
        """Build a runner of a config, which is loaded first, see :func:`load_config`."""
        cfg = load_config(cfg, world_size=get_world_size(), training=None)
        check_work_dir(cfg)
        cfg.setdefault("default_scope", SCOPE)
        return super().from_cfg(cfg)

    def build_log_processor(self, log_processor: Any) -> mmengine.runner.LogProcessor:
        """Build it; ours where the config names no type."""
        if isinstance(log_processor, Mapping):
            log_processor = {"type": LogProcessor, **log_processor}
        return super().build_log_processor(log_processor)

    def register_default_hooks(self, hooks: Mapping[str, Any] | None = None) -> None:
        """Register the hooks of every run; None switches one off, of ours as of mmengine's."""
        super().register_default_hooks(
            {k: hook for k, hook in (hooks or {}).items() if hook is not None or k in _OF_MMENGINE}
        )

    def train(self) -> torch.nn.Module:
        """Train."""
        if self.cfg.get("compile"):
            # which takes away the hooks of optimizers by which FiniteLossHook looks at losses
            need("2.4", "compile=True")
        if not self._resume:
            check_start(self._load_from, self.work_dir)
        if self.rank == 0:
            own = Path(self.work_dir)
            pictures = [*own.glob("20*/vis_data"), *own.glob("20*/vis_data/vis_image")]
            for folder in (own, *pictures):
                remove_partial(folder)
        loader = self._train_dataloader
        if isinstance(loader, Mapping) and not {"batch_size", "batch_sampler"} & loader.keys():
            raise InputError(
                "train_dataloader has no batch_size; read the config by vmt_mm.apis.load_config, "
                "which divides total_batch_size over the processes, or set it"
            )
        self._train_loop = self.build_train_loop(self._train_loop)
        loader = self.train_dataloader
        if not len(loader):
            raise InputError(
                f"{len(loader.dataset)} training image(s) give no batch of {loader.batch_size} per "
                "process; set a smaller total_batch_size"
            )
        if self._val_loop is not None:
            self._val_loop = self.build_val_loop(self._val_loop)
        super()._log_env(self.cfg.get("env_cfg", {}))
        self._starts_training = not self._resume
        try:
            return super().train()
        finally:
            for hook in self.hooks:
                if isinstance(hook, GracefulStopHook):
                    hook.release()

    def test(self) -> dict[str, float]:
        """Test."""
        self._test_loop = self.build_test_loop(self._test_loop)
        super()._log_env(self.cfg.get("env_cfg", {}))
        return super().test()

    def _log_env(self, env_cfg: dict) -> None:
        """Nothing yet: see :meth:`train`."""

    def _init_model_weights(self) -> None:
        """Initial values, unless a checkpoint is loaded: that holds them all."""
        if self._load_from is None:
            super()._init_model_weights()

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> DataLoader:
        """Build a data loader whose workers outlive the signals that end a training.

        Memory is pinned only where there is a device that copies from it: else PyTorch would warn.
        """
        if isinstance(dataloader, Mapping) and get_device() in _WITHOUT_PINNED_MEMORY:
            dataloader = {**dataloader, "pin_memory": False}
        with own_scope():
            loader = mmengine.runner.Runner.build_dataloader(dataloader, *args, **kwargs)
        loader.worker_init_fn = partial(start_worker, loader.worker_init_fn)
        return loader

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable = "cpu",
        strict: bool = True,
        revise_keys: list | None = None,
    ) -> dict[str, Any]:
        """Load a checkpoint into the model, strictly.

        Args:
            filename: path or ``http(s)`` address.
            map_location: device to read to.
            strict: must be true; for mmengine's signature.
            revise_keys: unused; for mmengine's signature.

        Raises:
            InputError: if it is damaged, unsafe, or fits another model.
        """
        checkpoint = read_checkpoint(str(filename), map_location)
        if self._resume:
            check_resumable(checkpoint, filename, self.hooks)
            checkpoint["meta"].pop("config", None)  # mmengine would run it
            weights = dict(checkpoint["state_dict"])  # in the order in which they were saved
        self._frozen = None
        load_model(
            unwrap(self.model),
            checkpoint,
            str(filename),
            self._description(),
            when_complete=lambda: self.call_hook("after_load_checkpoint", checkpoint=checkpoint),
            start_new=self._starts_training,
        )
        if self._resume:
            follow_names(self, checkpoint, weights)
            self._restore_state(checkpoint["meta"].get("processes", ()))
        self._has_loaded = True
        self.logger.info(f"Load checkpoint from {filename}")
        return checkpoint

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Go on from a checkpoint: weights, optimizer, schedules, counters, logs, seed.

        Raises:
            InputError: if it is not the state of a training of this config: of another optimizer,
                another schedule, or another set of trainable parameters; the message says which.
        """
        self._resume = True  # also where it is called without a config that says so
        try:
            # Logs belong on the CPU, and what loads the rest moves it to where it belongs.
            super().resume(filename, *args, **{"map_location": "cpu", **kwargs})
        except InputError:
            raise
        except (ValueError, KeyError) as error:
            raise InputError(
                f"{filename} holds the state of another training: {error}; to start from its "
                "weights, set load_from=FILE and do not resume"
            ) from error
        sampler = self.train_dataloader.sampler
        if getattr(sampler, "seed", self.seed) != self.seed:
            sampler.seed = self.seed  # it was built before the checkpoint's seed was known

    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, meta: dict | None = None, **kwargs: Any
    ) -> None:
        """Write a checkpoint atomically; for all processes to call.

        Raises:
            InputError: if it cannot be written, as on a full disk; the last one stays whole.
        """
        meta = dict(meta or {}, vmt_mm=self._description(), processes=self._gather_state())
        if "://" in str(out_dir):
            super().save_checkpoint(out_dir, filename, *args, meta=meta, **kwargs)
            return
        write = super().save_checkpoint

        def write_whole() -> None:
            path = Path(out_dir) / filename
            try:
                with atomic_write(path) as partial:
                    write(out_dir, partial.name, *args, meta=meta, **kwargs)
            except OSError as error:
                raise InputError(
                    f"{path}: the checkpoint could not be written ({error.strerror}); the last "
                    f"whole one is {newest_checkpoint(self.work_dir) or 'none'}; mend that and go "
                    "on with --resume"
                ) from error

        on_main(write_whole)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call the hooks; what they leave in a checkpoint that is saved becomes plain."""
        super().call_hook(fn_name, **kwargs)
        if fn_name == "before_save_checkpoint":
            checkpoint = kwargs["checkpoint"]
            keep_names(self, checkpoint)
            for part in {"meta", "message_hub", "param_schedulers"} & checkpoint.keys():
                checkpoint[part] = to_plain(checkpoint[part])
            self._leave_out_frozen(checkpoint)

    def _leave_out_frozen(self, checkpoint: dict[str, Any]) -> None:
        """Take the frozen encoder out of a checkpoint, where its file has it."""
        model = unwrap(self.model)
        keys = keys_left_out(model)
        if not keys or any(getattr(hook, "save_frozen", False) for hook in self.hooks):
            return
        if self._frozen is None:
            self._frozen = FrozenRecord.of(model, keys, model.backbone.pretrained_path)
        strip_frozen(checkpoint, keys, self._frozen)

    def dump_config(self) -> None:
        """Write the config to the work dir, atomically; not over the file that it came from."""
        source = Path(self.cfg.filename or self.timestamp)
        path = Path(self.work_dir) / f"{source.stem}.py"  # also of a .json
        if self.rank == 0 and not (path.exists() and source.exists() and path.samefile(source)):
            write_bytes(path, self.cfg.pretty_text.encode())

    def _description(self) -> dict[str, Any]:
        cfg = self.cfg.get("model") or {}
        return describe(unwrap(self.model), cfg.get("module", cfg))  # inside an augmenting model

    def _gather_state(self) -> list[dict[str, dict[str, Tensor]]]:
        """What every process has of its own, where it has anything.

        Normalisation statistics differ between validations; gradients are there while they
        accumulate over several iterations.
        """
        model = unwrap(self.model)
        state = dict(
            buffers={k: v.cpu() for k, v in model.named_buffers() if v.is_floating_point()},
            gradients={k: p.grad.cpu() for k, p in model.named_parameters() if p.grad is not None},
        )
        if self.world_size == 1:
            return [state] if state["gradients"] else []
        return all_gather_object(state)

    def _restore_state(self, gathered: Sequence[Mapping[str, Mapping[str, Tensor]]]) -> None:
        """Give this process its own state back, where the number of processes is the same."""
        if len(gathered) != self.world_size:
            return
        mine, model = gathered[self.rank], unwrap(self.model)
        for name, buffer in model.named_buffers():
            if name in mine["buffers"]:
                buffer.copy_(mine["buffers"][name])
        for name, parameter in model.named_parameters():
            if name in mine["gradients"]:
                parameter.grad = mine["gradients"][name].to(parameter)
