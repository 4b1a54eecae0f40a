"""SIGTERM and SIGINT end a training with a checkpoint, from which it resumes exactly."""

import multiprocessing
import os
import signal
import subprocess
import threading
from types import SimpleNamespace

import pytest
import torch
from run_hooks import At, Killed, kill
from small_runs import ONE_STEP, own_state
from waiting import PATIENCE, wait_until

from vmt_mm.checkpoints.files import is_intact, newest_checkpoint, read_checkpoint
from vmt_mm.engine.hooks import stopping
from vmt_mm.engine.hooks.stopping import FiniteLossHook, GracefulStopHook, InterruptedTraining
from vmt_mm.engine.runner import MultiTaskRunner
from vmt_mm.errors import InputError
from vmt_mm.utils.processes import start_worker

THREE = {"train_cfg.max_epochs": 3}
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def send(number):
    return lambda runner: os.kill(os.getpid(), number)


def interrupted(run, code):
    """Train until a signal ends the run; return the checkpoint."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.raises(InterruptedTraining) as caught:
        run.train()
    assert isinstance(caught.value, SystemExit)
    assert caught.value.code == code
    assert run.handlers == handlers
    path = run.folder / "interrupted.pth"
    assert is_intact(path)
    assert newest_checkpoint(run.folder) == str(path)
    assert f"wrote {path}; continue with --resume" in run.log
    return read_checkpoint(str(path))


@pytest.mark.parametrize(
    ("number", "code", "workers"), [(signal.SIGTERM, 143, 0), (signal.SIGINT, 130, 2)]
)
def test_a_signal_within_an_epoch(small_run, full_run, number, code, workers):
    run = small_run(THREE, At("before_train_iter", 5, send(number)), workers=workers)
    meta = interrupted(run, code)["meta"]
    # in the second epoch; the iteration of the signal is finished
    assert (meta["epoch"], meta["iter"]) == (1, 6)
    there = []
    note = At(
        "before_val_epoch", 8, lambda runner: there.extend(p.name for p in run.folder.glob("*.pth"))
    )
    resumed = small_run({**THREE, "resume": True}, note).train()
    assert {**run.losses, **resumed.losses} == full_run.losses
    assert sorted(run.losses) == [1, 2, 3, 4, 5, 6]
    assert run.validations + resumed.validations == full_run.validations
    # The next regular checkpoint, written before that validation, replaces it.
    assert "epoch_2.pth" in there
    assert "interrupted.pth" not in there


def test_a_signal_in_the_last_iteration_of_an_epoch(small_run, full_run):
    run = small_run(THREE, At("before_train_iter", 3, send(signal.SIGTERM)))
    meta = interrupted(run, 143)["meta"]
    assert (meta["epoch"], meta["iter"]) == (0, 4)
    resumed = small_run({**THREE, "resume": True}, At("after_train_iter", 5, kill, "LOWEST"))
    with pytest.raises(Killed):
        resumed.train()
    assert resumed.losses == {5: full_run.losses[5]}
    assert resumed.validations == full_run.validations[:1]


def test_a_signal_during_a_validation(small_run, full_run):
    run = small_run(THREE, At("before_val_iter", 4, send(signal.SIGTERM)))
    meta = interrupted(run, 143)["meta"]
    assert (meta["epoch"], meta["iter"]) == (1, 4)
    assert run.validations == []
    resumed = small_run({**THREE, "resume": True}, At("after_train_iter", 6, kill, "LOWEST"))
    with pytest.raises(Killed):
        resumed.train()
    assert resumed.losses == {number: full_run.losses[number] for number in (5, 6)}
    assert resumed.validations == full_run.validations[:1]  # run after resuming, once


def test_a_signal_during_a_missed_validation(small_run):
    options = {**ONE_STEP, "resume": True}
    stop = At("before_val_iter", 1, send(signal.SIGTERM))
    for _ in range(2):
        run = small_run(options, stop)
        interrupted(run, 143)
        assert run.validations == []
    run = small_run(options).train()
    assert sorted(run.losses) == [2]
    assert [number for number, _ in run.validations] == [1, 2]
    assert sorted(path.name for path in run.folder.glob("*.pth")) == [
        next(run.folder.glob("best*")).name,
        "epoch_1.pth",
        "epoch_2.pth",
    ]


def test_a_finished_training_restores_the_signal_handlers(full_run, small_run):
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    assert full_run.handlers == handlers
    # replaced during the training
    seen = []
    look = At("before_train_iter", 0, lambda runner: seen.append(signal.getsignal(signal.SIGTERM)))
    small_run({**ONE_STEP, "train_cfg.max_epochs": 1}, look).train()
    assert seen[0] != handlers[signal.SIGTERM]


def test_a_failed_training_restores_the_signal_handlers(small_run, monkeypatch):
    # Otherwise, a notebook could not be interrupted afterwards.
    def fail(*_, **__):
        raise InputError("the loss is NaN")

    monkeypatch.setattr(FiniteLossHook, "after_train_iter", fail)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    run = small_run(ONE_STEP)
    with pytest.raises(InputError):
        run.train()
    assert run.handlers == handlers


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_has_its_previous_meaning(clock, number):
    with own_state():
        received = []
        before = [lambda number, _: received.append(number) for _ in SIGNALS]
        for each, handler in zip(SIGNALS, before, strict=True):
            signal.signal(each, handler)
        hook = GracefulStopHook()
        hook.before_train(None)
        os.kill(os.getpid(), number)
        for clock.now in (100.0, 101.5):  # a launcher repeats the terminal's signal
            os.kill(os.getpid(), number)
            assert received == []
        clock.now = 102.5
        os.kill(os.getpid(), number)
        assert received == [number]
        hook.release()
        assert [signal.getsignal(each) for each in SIGNALS] == before


def test_interrupting_twice_is_a_keyboard_interrupt(small_run, clock):
    def twice(runner):
        os.kill(os.getpid(), signal.SIGINT)
        clock.now += 3
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        small_run(ONE_STEP, At("before_train_iter", 1, twice)).train()


def test_in_another_thread_signals_are_left_alone():
    handlers = [signal.getsignal(number) for number in SIGNALS]
    hook = GracefulStopHook()
    thread = threading.Thread(target=hook.before_train, args=(None,))
    thread.start()
    thread.join()
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    hook.release()


def test_workers_outlive_signals():
    with own_state():
        loader = MultiTaskRunner.build_dataloader(
            dict(
                batch_size=2,
                num_workers=2,
                dataset=range(24),
                sampler=dict(type="DefaultSampler", shuffle=False),
                collate_fn=dict(type="default_collate"),
            ),
            seed=0,
        )
        iterator = iter(loader)
        # One batch from each worker: both have started and set their signal handlers.
        batches = [next(iterator), next(iterator)]
        pids = [worker.pid for worker in iterator._workers]
        for number in (*SIGNALS, *SIGNALS):
            # as from a terminal or a scheduler: not from the training process
            subprocess.run(["kill", f"-{number:d}", *map(str, pids)], check=True)
            batches.append(next(iterator))  # which requests another batch from its worker
        assert all(worker.is_alive() for worker in iterator._workers)
        batches.extend(iterator)  # all batches arrive in order
        assert torch.cat(batches).tolist() == list(range(24))


def _work(connection):
    start_worker(connection.send, 3)
    while True:
        connection.recv()
        wait_until(lambda: signal.SIGTERM not in signal.sigpending())
        connection.send("taken")


@pytest.mark.processes
def test_a_worker_ends_when_its_training_tells_it():
    # As a data loader does with a worker that does not exit.
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    worker = context.Process(target=_work, args=(there,), daemon=True)
    worker.start()
    there.close()
    try:
        assert here.poll(PATIENCE)
        assert here.recv() == 3  # the loader's worker_init_fn is kept
        for _ in range(2):  # for a second signal, it must have survived the first
            subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
            here.send("has it taken the signal?")
            assert here.poll(PATIENCE)
            assert here.recv() == "taken"
        worker.terminate()
        worker.join(PATIENCE)
        assert worker.exitcode == 0
    finally:
        worker.kill()
