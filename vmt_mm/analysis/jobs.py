"""Run commands side by side, each with a log of its own, until all have ended or a signal comes."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from vmt_mm.errors import InputError

_POLL_S = 0.2
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass
class Job:
    """A command to run.

    Attributes:
        name: what the progress calls it.
        command: program and arguments.
        log: file that its output is appended to; locked while the command runs.
        progress: gives the part that is done (0..1) and a word on it from the output so far.
        code: exit code, negative for a signal; None before the end.
        seconds: how long it ran.
        stopped: whether it was asked to end.
    """

    name: str
    command: Sequence[str]
    log: Path
    progress: Callable[[str], tuple[float, str]] = lambda output: (0.0, "")
    code: int | None = None
    seconds: float = 0.0
    stopped: bool = False

    def tail(self, lines: int = 15) -> str:
        """The last lines of its output."""
        return "\n".join(_end_of(self.log, 0).splitlines()[-lines:])


class _Child:
    """A job that runs, in a session of its own: the terminal's signals reach its parent alone."""

    def __init__(self, job: Job, threads: int) -> None:
        self.job, self.fraction, self.word = job, 0.0, "starting"
        self.begin = time.monotonic()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self.from_here = job.log.stat().st_size if job.log.exists() else 0
        with _hold(job.log) as lock, job.log.open("ab") as output:
            # The child inherits the lock, which so lives as long as it does, whatever ends before.
            self.process = subprocess.Popen(
                [str(part) for part in job.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock.fileno()],
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )

    def look(self) -> bool:
        """Note how far it is; tell whether it has ended."""
        self.job.code = self.process.poll()
        self.job.seconds = time.monotonic() - self.begin
        fraction, word = self.job.progress(_end_of(self.job.log, self.from_here))
        if word:
            self.fraction, self.word = fraction, word
        return self.job.code is not None

    def stop(self, number: int) -> None:
        """Ask it to end, or end it with everything it started."""
        self.job.stopped = True
        if number == signal.SIGKILL:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)


def run_jobs(
    jobs: Sequence[Job],
    slots: int,
    console: Console,
    on_start: Callable[[Job], None] = lambda job: None,
    on_end: Callable[[Job], None] = lambda job: None,
) -> bool:
    """Run jobs, so many at a time, and show how far they are.

    Each gets its share of the cores as ``OMP_NUM_THREADS``. SIGINT or SIGTERM starts no further
    job and ends those that run by SIGTERM; a second one kills them.

    Args:
        jobs: in the order to start them.
        slots: how many may run at a time.
        console: where progress is shown; a terminal gets one line for each job that runs.
        on_start: called before a job starts.
        on_end: called when a job has ended, with its exit code set.

    Returns:
        False if a signal ended it.

    Raises:
        InputError: if the log of a job is in use by another process.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // slots)
    waiting, running, received, passed_on = list(jobs), [], [], 0
    try:
        with _signals(received), _Display(console, len(jobs)) as display:
            while running or (waiting and not received):
                while waiting and len(running) < slots and not received:
                    on_start(waiting[0])
                    running.append(_Child(waiting.pop(0), threads))
                time.sleep(_POLL_S)
                for child in [child for child in running if child.look()]:
                    running.remove(child)
                    display.ended(child)
                    on_end(child.job)
                display.show(running)
                if len(received) > passed_on:
                    for child in running:
                        child.stop(signal.SIGKILL if passed_on else signal.SIGTERM)
                    passed_on = len(received)
    finally:  # there are some left only where something above failed
        for child in running:
            child.stop(signal.SIGTERM)
        for child in running:
            child.process.wait()
    return not received


class _Display:
    """One line for each job that runs, and one for all of them."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total, self.done = console, total, 0
        self.begin = time.monotonic()
        columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[word]}")]
        self.progress = Progress(*columns, TimeElapsedColumn(), console=console)
        self.all = self.progress.add_task(f"0 of {total}", total=total, word="")
        self.lines: dict[int, TaskID] = {}

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def show(self, running: Sequence[_Child]) -> None:
        """Bring the lines up to date."""
        for child in running:
            key = id(child)
            if key not in self.lines:
                self.lines[key] = self.progress.add_task(child.job.name, total=1.0, word="")
            self.progress.update(self.lines[key], completed=child.fraction, word=child.word)
        done = self.done + sum(child.fraction for child in running)
        self.progress.update(
            self.all, completed=done, description=f"{self.done} of {self.total}", word=self._left()
        )

    def ended(self, child: _Child) -> None:
        """Take its line away, and print one that stays."""
        self.done += 1
        if id(child) in self.lines:
            self.progress.remove_task(self.lines.pop(id(child)))
        outcome = "stopped" if child.job.stopped else "failed"
        outcome = f"{outcome} after" if child.job.code else "done in"
        left = f", {self._left()}" if self.done < self.total else ""
        self.console.print(
            f"{self.done} of {self.total}: {child.job.name} {outcome} "
            f"{duration(child.job.seconds)}{left}",
            highlight=False,
            soft_wrap=True,
        )

    def _left(self) -> str:
        done = self.progress.tasks[0].completed if self.progress.tasks else 0
        done = max(done, self.done)
        elapsed = time.monotonic() - self.begin
        return f"about {duration(elapsed * (self.total - done) / done)} left" if done else ""


def duration(seconds: float) -> str:
    """Seconds as text: '42 s', '7 min', '3 h 20 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def _signals(received: list[int]) -> Iterator[None]:
    """Collect the signals that ask for an end, meanwhile."""
    former = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in _SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def _hold(log: Path) -> Iterator[IO]:
    """Take a log's lock, which other processes may inherit; refuse where it is taken."""
    with log.with_name(f".{log.name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{log.parent}: another process runs here; wait for its end, or end it"
            ) from None
        yield handle


def _end_of(log: Path, begin: int, size: int = 16384) -> str:
    """The last part of a log, of what was written from ``begin`` on."""
    with log.open("rb") as stream:
        stream.seek(max(begin, log.stat().st_size - size))
        return stream.read().decode(errors="replace")
