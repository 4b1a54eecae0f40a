"""Training loops that resume exactly, also within an epoch.

Every iteration seeds the random generators (dropout uses them), so their state is not saved.
"""

import random
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import mmengine.runner
import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_reduce
from torch import nn

from vmt_mm.checkpoints.files import validated_iteration
from vmt_mm.errors import InputError
from vmt_mm.registry import LOOPS
from vmt_mm.utils.modules import unwrap
from vmt_mm.utils.processes import on_main

#: Message hub entry: batches per epoch, and images per batch over all processes.
_EPOCH = "epoch_batches"
#: Message hub entry of the current update, with gradient accumulation: the iteration after it, and
#: the mean number of labelled pixels per batch of each task.
_UPDATE = "update_labels"


def seed_iteration(seed: int, rank: int, iteration: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices) with (seed, process, iteration)."""
    words = np.random.SeedSequence((seed, rank, iteration)).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))


def batches_from(loader: Any, position: int) -> Iterator[Any]:
    """Iterate over a data loader, starting at a batch; samplers with ``skip`` read none before."""
    sampler = _sampler_of(loader)
    skip = getattr(sampler, "skip", None)
    if isinstance(sampler, InfiniteSampler):
        # its iterators share one stream, which the loop of mmengine 0.10.7 has already advanced
        sampler.indices = sampler._indices_of_rank()
    if position and skip and loader.batch_size:
        skip(position * loader.batch_size)
        position = 0
    return islice(iter(loader), position, None)


def _sampler_of(loader: Any) -> Any:
    """Return the sampler of indices, which may be inside a custom batch sampler."""
    return getattr(loader.batch_sampler, "sampler", loader.sampler)


class _ExactLoop(mmengine.runner.BaseLoop):
    """Shared code of both loops; a mixin that precedes mmengine's class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        vars(self).pop("dataloader_iterator", None)  # with its workers, if mmengine created one
        if not len(self.dataloader):
            images, size = len(self.dataloader.dataset), self.dataloader.batch_size
            raise InputError(f"{images} training image(s) do not fill a batch of {size}")

    def _start(self) -> None:
        """Call the hooks; raise InputError if a resumed run had different batches per epoch."""
        hub, loader = self.runner.message_hub, self.dataloader
        own = [len(loader), (loader.batch_size or 1) * self.runner.world_size]
        saved = hub.runtime_info.get(_EPOCH, own)
        if saved != own:
            was, now = ("{} batches of {} images".format(*sizes) for sizes in (saved, own))
            raise InputError(f"the resumed run had {was} per epoch; this config gives {now}")
        hub.update_info(_EPOCH, own)
        if self._iter >= self._max_iters:
            self.runner.logger.info("training is already complete")
        self.runner.call_hook("before_train")

    def run_iter(self, *args: Any) -> None:
        """Run one iteration, with the arguments of mmengine's loop."""
        seed_iteration(self.runner.seed, self.runner.rank, self._iter)
        if weighting := getattr(unwrap(self.runner.model), "weighting", None):
            weighting.epoch = self._iter // len(self.dataloader)
            weighting.new_update = self._iter % self._batches_per_update == 0
        super().run_iter(*args)

    @property
    def _batches_per_update(self) -> int:
        return getattr(self.runner.optim_wrapper, "_accumulative_counts", 1)

    def _with_shares(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches; with gradient accumulation, tell the model their ``update_shares``.

        The batches of an update are read before its first one is yielded, within an epoch. Labels
        are counted before warps on the device.
        """
        model, hub = unwrap(self.runner.model), self.runner.message_hub
        size, tasks = self._batches_per_update, getattr(model, "trained_tasks", None)
        if size == 1 or not tasks:
            yield from batches
            return
        try:
            while update := list(islice(batches, size - self._iter % size)):
                counts = torch.tensor([_count_labels(tasks, batch) for batch in update])
                end, means = hub.runtime_info.get(_UPDATE, (0, []))
                if not self._iter < end:  # else, a resumed run is within an update
                    mean = counts.mean(0)
                    all_reduce(mean, "mean")
                    end, means = self._iter + len(update), mean.tolist()
                    hub.update_info(_UPDATE, [end, means])
                for own, batch in zip(counts.tolist(), update, strict=True):
                    pairs = zip(tasks, own, means, strict=True)
                    model.update_shares = {name: n / max(mean, 1e-8) for name, n, mean in pairs}
                    yield batch
        finally:
            model.update_shares = None

    def _validate_if_due(self, now: int, last: int, resumed: bool = False) -> None:
        """Validate if the interval is reached and a resumed run has not validated yet."""
        done = on_main(lambda: validated_iteration(self.runner.work_dir)) if resumed else None
        self._decide_current_val_interval()
        due = now >= self.val_begin and (now % self.val_interval == 0 or now == last)
        if self.runner.val_loop is not None and now and due and done != self._iter:
            self.runner.val_loop.run()


def _count_labels(tasks: Mapping[str, Any], batch: Mapping[str, Any]) -> list[float]:
    """Return the number of labelled pixels of each task in a batch."""
    samples = batch["data_samples"]
    labels = [(task, [s.label(name) for s in samples]) for name, task in tasks.items()]
    return [sum(float(t.loss_count(x[None])) for x in own if x is not None) for t, own in labels]


@LOOPS.register_module()
class EpochBasedTrainLoop(_ExactLoop, mmengine.runner.EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop``, which also resumes within an epoch."""

    def run(self) -> nn.Module:
        """Train."""
        self._start()
        if self._iter == self._epoch * len(self.dataloader):
            self._validate_if_due(self._epoch, self._max_epochs, resumed=True)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due(self._epoch, self._max_epochs)
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        """Train the rest of this epoch."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        done = self._iter - self._epoch * len(self.dataloader)
        batches = self._with_shares(batches_from(self.dataloader, done))
        for position, batch in enumerate(batches, start=done):
            self.run_iter(position, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


@LOOPS.register_module()
class IterBasedTrainLoop(_ExactLoop, mmengine.runner.IterBasedTrainLoop):
    """mmengine's ``IterBasedTrainLoop``; resuming reads no earlier batch if samplers ``skip``."""

    def run(self) -> nn.Module:
        """Train."""
        self._start()
        self.runner.call_hook("before_train_epoch")
        self._validate_if_due(self._iter, self._max_iters, resumed=True)
        batches = self._with_shares(self._batches())
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches))
            self._validate_if_due(self._iter, self._max_iters)
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _batches(self) -> Iterator[Any]:
        """Yield batches endlessly from the current iteration on; each pass has its own order."""
        sampler = _sampler_of(self.dataloader)
        if isinstance(sampler, InfiniteSampler):
            yield from batches_from(self.dataloader, self._iter)
        epoch, done = divmod(self._iter, len(self.dataloader))
        while True:  # an update with gradient accumulation may read batches of the next pass early
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
            yield from batches_from(self.dataloader, done)
            epoch, done = epoch + 1, 0
