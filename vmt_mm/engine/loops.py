"""Training loops that continue exactly where a run ended.

A training is a function of the seed: what it draws outside the data pipeline (dropout, for one)
comes from generators that every iteration seeds by (seed, process, iteration). So no generator's
state is saved, and neither workers nor validations change what follows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import mmengine.runner
import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from torch import nn

from vmt_mm.checkpoints.files import validated_iteration
from vmt_mm.errors import InputError
from vmt_mm.registry import LOOPS
from vmt_mm.utils.processes import on_main

#: Entry of the message hub: batches of an epoch, and images of a batch over all processes.
_EPOCH = "epoch_batches"


def seed_iteration(seed: int, rank: int, iteration: int) -> None:
    """Seed Python, NumPy and PyTorch (every device) by (seed, process, iteration)."""
    words = np.random.SeedSequence((seed, rank, iteration)).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))


def batches_from(loader: Any, position: int) -> Iterator[Any]:
    """Iterate over a data loader from its batch ``position`` on.

    A sampler with ``skip(samples)`` leaves the batches before it unread; else they are read.
    """
    sampler = _sampler_of(loader)
    if isinstance(sampler, InfiniteSampler):
        # all its iterators share one stream, of which mmengine 0.10.7's loop has taken a part
        sampler.indices = sampler._indices_of_rank()
    skip = getattr(sampler, "skip", None)
    if position and skip and loader.batch_size:
        skip(position * loader.batch_size)
        position = 0
    return islice(iter(loader), position, None)


def _sampler_of(loader: Any) -> Any:
    """The sampler of indices, also within a batch sampler of the config's own."""
    return getattr(loader.batch_sampler, "sampler", loader.sampler)


class _ExactLoop(mmengine.runner.BaseLoop):
    """What both loops share; precedes mmengine's class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        vars(self).pop("dataloader_iterator", None)  # with its workers, if mmengine made one
        if not len(self.dataloader):
            raise InputError(
                f"{len(self.dataloader.dataset)} training image(s) give no batch of "
                f"{self.dataloader.batch_size} per process; set a smaller total_batch_size"
            )

    def _start(self) -> None:
        """Call the hooks; raise InputError if a resumed run had other batches in an epoch."""
        hub, loader = self.runner.message_hub, self.dataloader
        own = [len(loader), (loader.batch_size or 1) * self.runner.world_size]
        saved = hub.runtime_info.get(_EPOCH, own)
        if saved != own:
            raise InputError(
                f"the resumed run had {saved[0]} batches of {saved[1]} images in an epoch, this "
                f"config gives {own[0]} of {own[1]}; resume with the same data and total_batch_size"
            )
        hub.update_info(_EPOCH, own)
        if self._iter >= self._max_iters:
            self.runner.logger.info("the training is complete: nothing is left to do")
        self.runner.call_hook("before_train")

    def run_iter(self, *args: Any) -> None:
        """One iteration; the arguments are those of mmengine's loop."""
        seed_iteration(self.runner.seed, self.runner.rank, self._iter)
        super().run_iter(*args)

    def _validate_if_due(self, now: int, last: int) -> None:
        """Validate where the interval says so.

        Args:
            now: epochs or iterations that are done, as the loop counts its interval.
            last: where the training ends.
        """
        self._decide_current_val_interval()
        due = now >= self.val_begin and (now % self.val_interval == 0 or now == last)
        if self.runner.val_loop is not None and now and due:
            self.runner.val_loop.run()

    def _repeat_validation(self, now: int, last: int) -> None:
        """After a resume: the validation that was due when the run ended, if it had not ended."""
        done = on_main(lambda: validated_iteration(self.runner.work_dir))
        if self._iter and done != self._iter:
            self._validate_if_due(now, last)


@LOOPS.register_module()
class EpochBasedTrainLoop(_ExactLoop, mmengine.runner.EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop`` that can resume within an epoch."""

    def run(self) -> nn.Module:
        """Train."""
        self._start()
        if self._iter == self._epoch * len(self.dataloader):
            self._repeat_validation(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due(self._epoch, self._max_epochs)
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        """Train what is left of this epoch."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        done = self._iter - self._epoch * len(self.dataloader)
        for position, batch in enumerate(batches_from(self.dataloader, done), start=done):
            self.run_iter(position, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


@LOOPS.register_module()
class IterBasedTrainLoop(_ExactLoop, mmengine.runner.IterBasedTrainLoop):
    """mmengine's ``IterBasedTrainLoop`` that resumes without reading again, where samplers skip.

    A finite sampler, such as ``SeededSampler``, gives the dataset in another order each time.
    """

    def run(self) -> nn.Module:
        """Train."""
        self._start()
        self.runner.call_hook("before_train_epoch")
        self._repeat_validation(self._iter, self._max_iters)
        batches = self._batches()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches))
            self._validate_if_due(self._iter, self._max_iters)
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _batches(self) -> Iterator[Any]:
        """Batches without end, from the current iteration on."""
        sampler = _sampler_of(self.dataloader)
        if isinstance(sampler, InfiniteSampler):
            yield from batches_from(self.dataloader, self._iter)
        while True:
            epoch, done = divmod(self._iter, len(self.dataloader))
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
            yield from batches_from(self.dataloader, done)
