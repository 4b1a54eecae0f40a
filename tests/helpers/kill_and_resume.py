"""Kill and resume a training many times, and compare it with an uninterrupted one.

python tests/helpers/kill_and_resume.py --kills 20 --while-writing 6

A small training on rendered scenes gets SIGKILL while it starts, trains, or writes a checkpoint,
and is resumed with `--resume auto`. At the end its weights and metrics must equal those of the
uninterrupted run, every checkpoint seen on the way must be intact, and no partial file may be
left. Each training is a forked process, so that the libraries are imported once.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import runpy
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import vmt_mm.apis  # noqa: F401 - what a training imports
from vmt_mm.checkpoints.files import is_intact, read_checkpoint
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import PARTIAL

ROOT = Path(__file__).parents[2]
CONFIG = "configs/vmt/vmt_swin-nano_shapes.py"
_STEP = "Epoch(train)"
#: A kill during training comes after this many steps, in the second epoch.
_STEPS = 5, 8


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="how often to kill")
    parser.add_argument(
        "--while-writing", type=int, default=6, help="how many of them while a file is written"
    )
    parser.add_argument("--epochs-per-kill", type=int, default=3, help="length of the training")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/kill_and_resume"))
    return parser.parse_args()


class Training:
    """A training that is started repeatedly in one work dir."""

    def __init__(self, work_dir: Path, data: Path, epochs: int) -> None:
        self.work_dir = work_dir
        self.log = work_dir.with_suffix(".log")
        self.command = [
            "tools/train.py", CONFIG, "--work-dir", str(work_dir.resolve()),
            "--resume", "auto", "--seed", "0", "--deterministic", "--cfg-options",
            f"data_root={data.resolve()}", "render.train=16", "render.val=5", "render.size=48",
            "image_size=48,48", "total_batch_size=4", "train_dataloader.num_workers=1",
            "val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False",
            f"train_cfg.max_epochs={epochs}", "train_cfg.val_interval=1",
            "default_hooks.logger.interval=1", "default_hooks.visualization.num_images=0",
        ]  # fmt: skip

    def start(self) -> multiprocessing.Process:
        """Start or resume it, in the background."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        process = multiprocessing.get_context("fork").Process(target=self._run)
        process.start()
        return process

    def _run(self) -> None:
        log = os.open(self.log, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log, stream.fileno())
        os.chdir(ROOT)
        sys.argv = self.command
        runpy.run_path(self.command[0], run_name="__main__")

    def finish(self) -> float:
        """Run it to the end; return the seconds until its first step."""
        process, begin = self.start(), time.monotonic()
        _wait_for_steps(self, process, 1)
        seconds = time.monotonic() - begin
        process.join()
        if process.exitcode:
            sys.exit(f"the training failed, see {self.log}")
        return seconds

    def partial_files(self) -> list[Path]:
        """Files that are being written, or were when a process died."""
        return list(self.work_dir.rglob(f".*{PARTIAL}"))

    def torn(self) -> list[str]:
        """Incomplete checkpoints, and an empty pointer to the last one."""
        torn = [path.name for path in self.work_dir.glob("*.pth") if not is_intact(path)]
        pointer = self.work_dir / "last_checkpoint"
        return torn + ([pointer.name] if pointer.exists() and not pointer.read_text() else [])

    def metrics(self) -> dict[str, float]:
        """Metrics of the last validation."""
        logs = sorted(self.work_dir.rglob("scalars.json"))
        lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
        last = [line for line in lines if "semseg/mIoU" in line][-1]
        return {k: v for k, v in last.items() if "/" in k}

    def weights(self) -> dict[str, torch.Tensor]:
        """Weights of the last checkpoint."""
        last = (self.work_dir / "last_checkpoint").read_text()
        return read_checkpoint(last)["state_dict"]


def kill_at(training: Training, moment: str, rng: random.Random, startup: float) -> str:
    """Start the training, kill it at a moment of this kind, and return what it was doing."""
    process = training.start()
    begin = time.monotonic()
    if moment == "starting":
        _wait_for_steps(training, process, 1, rng.uniform(0, startup))
    else:
        _wait_for_steps(training, process, 1)
        if moment == "training":
            _wait_for_steps(training, process, rng.randint(*_STEPS))
        else:
            _wait_for_writing(training, process, rng)
    ended = not process.is_alive()
    process.kill()
    process.join()
    writing = [path.name for path in training.partial_files()]
    state = "had ended" if ended else f"writing {writing[0][1:-14]}" if writing else moment
    return f"{state}, after {time.monotonic() - begin:.2f} s"


def _wait_for_steps(
    training: Training, process: multiprocessing.Process, count: int, seconds: float = math.inf
) -> None:
    """Wait until the log has this many steps, or until the time is up."""
    end = time.monotonic() + seconds
    while training.log.read_text().count(_STEP) < count and process.is_alive():
        if time.monotonic() > end:
            break
        time.sleep(0.005)


def _wait_for_writing(
    training: Training, process: multiprocessing.Process, rng: random.Random
) -> None:
    """Wait until the first, second or third checkpoint is being written, plus some milliseconds."""
    seen, wanted = set(), rng.randint(1, 3)
    while process.is_alive():
        seen |= {p.name for p in training.work_dir.glob(f".*{PARTIAL}") if ".pth." in p.name}
        if len(seen) >= wanted:
            time.sleep(rng.uniform(0, 0.004))
            return


def compare(killed: Training, full_run: Training) -> list[str]:
    """Differences at the end; there should be none."""
    faults = [f"torn: {name}" for name in killed.torn()]
    faults += [f"left behind: {path.name}" for path in killed.partial_files()]
    names = [sorted(p.name for p in t.work_dir.glob("*.pth")) for t in (killed, full_run)]
    if names[0] != names[1]:
        faults.append(f"checkpoints {names[0]} instead of {names[1]}")
    ours, theirs = killed.metrics(), full_run.metrics()
    faults += [f"{k}: {ours.get(k)} instead of {v}" for k, v in theirs.items() if ours.get(k) != v]
    weights, expected = killed.weights(), full_run.weights()
    faults += [f"weights of {k}" for k in expected if not torch.equal(weights[k], expected[k])]
    return faults


def main() -> None:
    """Run, print a table, and exit with 1 if anything differs."""
    args, console = parse_args(), Console()
    rng = random.Random(args.seed)
    epochs = args.epochs_per_kill * args.kills
    full_run = Training(args.work_dir / "full", args.work_dir / "shapes", epochs)
    killed = Training(args.work_dir / "killed", args.work_dir / "shapes", epochs)
    if args.work_dir.exists():
        sys.exit(f"{args.work_dir} is there; remove it or give another --work-dir")
    begin = time.monotonic()
    startup = full_run.finish()
    console.print(f"uninterrupted: {epochs} epochs in {time.monotonic() - begin:.0f} s")
    others = args.kills - args.while_writing
    moments = ["writing"] * args.while_writing
    starting = math.ceil(others / 3)
    moments += ["starting"] * starting + ["training"] * (others - starting)
    rng.shuffle(moments)
    table = Table("kill", "meant for", "was", "torn files")
    faults = []
    for number, moment in enumerate(moments, start=1):
        state = kill_at(killed, moment, rng, startup)
        torn = killed.torn()
        faults += [f"kill {number}: torn {name}" for name in torn]
        table.add_row(str(number), moment, state, ", ".join(torn) or "none")
        console.print(f"kill {number} of {args.kills}: {state}", highlight=False)
        if "had ended" in state:
            faults.append(f"kill {number}: the training had ended before the kill; make it longer")
    killed.finish()
    if killed.log.read_text().count(_STEP) == full_run.log.read_text().count(_STEP):
        faults.append("the training was never resumed from a checkpoint")
    faults += compare(killed, full_run)
    console.print(table)
    for name, value in full_run.metrics().items():
        after = killed.metrics()[name]
        console.print(f"{name}: {value} uninterrupted, {after} after the kills", soft_wrap=True)
    if faults:
        sys.exit("\n".join(faults))
    console.print(f"{args.kills} kills: weights and metrics are those of the uninterrupted run")


if __name__ == "__main__":
    main()
