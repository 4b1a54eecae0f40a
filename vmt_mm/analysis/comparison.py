"""What a set of finished trainings says: scores, their spread over seeds, Delta, and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from vmt_mm.analysis.parameter_report import summarize_experiment
from vmt_mm.analysis.runs import LOG, Entry, Run
from vmt_mm.errors import InputError
from vmt_mm.evaluation import evaluator as relative_gain

_MOST_MISSING = 4


def spread_of(values: Mapping[str, float]) -> dict[str, Any]:
    """Seed -> value, their mean, and their sample standard deviation (None for a single one)."""
    numbers = list(values.values())
    return dict(
        values=dict(values),
        mean=fmean(numbers) if numbers else None,
        spread=stdev(numbers) if len(numbers) > 1 else None,
    )


def cost_of(entry: Entry) -> dict[str, Any]:
    """Trainable parameters of ``encoder`` and ``all``, and ``passes`` through the encoder.

    A config that trains one model a task counts all of them, as the paper does.
    """
    counts = summarize_experiment(entry.experiment)
    return dict(
        encoder=counts.encoder_trainable,
        all=counts.total_trainable,
        passes=1 if counts.passes == "shared" else counts.tasks,
    )


def choose_reference(entries: Sequence[Entry], asked: str | None) -> Entry | None:
    """The entry whose scores are the S of Delta; None where there is none.

    Args:
        entries: all of them.
        asked: path of the config that the user asked for.

    Raises:
        InputError: if several could be meant.
    """
    if asked is not None:
        return next(entry for entry in entries if entry.experiment.path == asked)
    single = [entry for entry in entries if entry.experiment.model_per_task]
    if len(single) > 1:
        paths = ", ".join(entry.experiment.path for entry in single)
        raise InputError(f"{paths} all train one model a task; say by --reference which to use")
    return single[0] if single else None


def compare(
    entries: Sequence[Entry],
    runs: Sequence[Run],
    reference: Entry | None,
    costs: Mapping[str, Mapping[str, Any]],
    command: str,
) -> dict[str, Any]:
    """Put together what is finished, in JSON's types.

    Args:
        entries: the rows, in order.
        runs: the runs of all of them.
        reference: the row whose mean scores are the S of Delta.
        costs: entry's name -> what :func:`cost_of` gives.
        command: the command line that makes it.

    Returns:
        ``tasks``: name -> ``metric``, ``higher_is_better``. ``reference``: ``name``, ``scores``,
        or why there are none as ``missing``. ``rows``: for each entry its costs, ``scores`` by
        task and ``delta`` (see :func:`spread_of`; a seed has a Delta once it has every task), its
        ``runs``, and what is ``missing``. ``command``.
    """
    tasks = entries[0].tasks
    rows = [_row(entry, [run for run in runs if run.entry is entry]) for entry in entries]
    for entry, row in zip(entries, rows, strict=True):
        row.update(costs[entry.name])
    base = _reference(reference, rows)
    for row in rows:
        deltas = {}
        if base["scores"]:
            per_seed = {task: score["values"] for task, score in row["scores"].items()}
            for seed in next(iter(per_seed.values())):
                if all(seed in values for values in per_seed.values()):
                    own = {task: values[seed] for task, values in per_seed.items()}
                    deltas[seed] = relative_gain(own, base["scores"], tasks)
        row["delta"] = spread_of(deltas)
    return dict(
        tasks={
            name: dict(metric=task.primary_metric, higher_is_better=task.higher_is_better)
            for name, task in tasks.items()
        },
        reference=base,
        rows=rows,
        command=command,
    )


def _row(entry: Entry, runs: Sequence[Run]) -> dict[str, Any]:
    scores: dict[str, dict[str, float]] = {task: {} for task in entry.tasks}
    raw, missing = [], []
    for run in runs:
        record, metrics = run.read() or {}, run.metrics()
        raw.append(
            dict(
                task=run.task,
                seed=run.seed,
                folder=str(run.folder),
                seconds=record.get("seconds"),
                metrics=metrics,
            )
        )
        if metrics is None:
            missing.append(f"{run.name} {_state(run, record)}")
            continue
        for name in [run.task] if run.task else entry.tasks:
            value = metrics.get(f"{name}/{entry.tasks[name].primary_metric}")
            if value is None:
                missing.append(f"{run.name} has no {name}/{entry.tasks[name].primary_metric}")
            else:
                scores[name][str(run.seed)] = value
    return dict(
        name=entry.name,
        title=entry.title,
        config=entry.experiment.path,
        scores={task: spread_of(values) for task, values in scores.items()},
        missing=missing,
        runs=raw,
    )


def _state(run: Run, record: Mapping[str, Any]) -> str:
    if not record:
        return "has not been started"
    return f"failed, see {run.folder / LOG}" if record["code"] else "has not ended"


def _reference(reference: Entry | None, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if reference is None:
        why = "no config trains one task alone (a top-level `task`), and no --reference is given"
        return dict(name=None, title=None, scores=None, missing=why)
    row = next(row for row in rows if row["name"] == reference.name)
    scores = {task: score["mean"] for task, score in row["scores"].items()}
    base = dict(name=row["name"], title=row["title"], scores=scores, missing=None)
    if unknown := [task for task, score in scores.items() if not score]:
        base.update(
            scores=None, missing=f"{row['title']}, the reference, has no {', '.join(unknown)} yet"
        )
    return base


def to_markdown(comparison: Mapping[str, Any]) -> str:
    """A comparison as a Markdown table, with what is missing and the command below.

    Args:
        comparison: what :func:`compare` gives.
    """
    columns = _columns(comparison)
    best = {name: max(values, default=None) for name, values in _ranks(comparison).items()}
    lines = [
        "| method | trainable, encoder (M) | trainable, all (M) | passes | "
        + " | ".join(head for head, _ in columns.values())
        + " |",
        "|---|--:|--:|--:|" + "--:|" * len(columns),
    ]
    for row in comparison["rows"]:
        cells = [row["title"] + (" †" if row["missing"] else "")]
        cells += [f"{row[key] / 1e6:.3f}" for key in ("encoder", "all")] + [str(row["passes"])]
        for name, (_, sign) in columns.items():
            value = _value(row, name)
            text = _format(value, "+" if name == "delta" else "")
            top = value["mean"] is not None and sign * round(value["mean"], 2) == best[name]
            cells.append(f"**{text}**" if top else text)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_notes(comparison), "", f"    {comparison['command']}", ""])


def _columns(comparison: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Task, or 'delta' -> head of its column, and 1 where higher is better, else -1."""
    columns = {}
    for name, task in comparison["tasks"].items():
        arrow, sign = ("↑", 1) if task["higher_is_better"] else ("↓", -1)
        columns[name] = (f"{name} {task['metric']} {arrow}", sign)
    if comparison["reference"]["scores"]:
        columns["delta"] = ("Δ (%) ↑", 1)
    return columns


def _value(row: Mapping[str, Any], column: str) -> Mapping[str, Any]:
    return row["delta"] if column == "delta" else row["scores"][column]


def _ranks(comparison: Mapping[str, Any]) -> dict[str, list[float]]:
    """Column -> what its rows show, turned so that more is better."""
    ranks: dict[str, list[float]] = {}
    for name, (_, sign) in _columns(comparison).items():
        means = [_value(row, name)["mean"] for row in comparison["rows"]]
        ranks[name] = [sign * round(mean, 2) for mean in means if mean is not None]
    return ranks


def _format(value: Mapping[str, Any], sign: str) -> str:
    if value["mean"] is None:
        return "–"
    spread = "" if value["spread"] is None else f" ± {value['spread']:.2f}"
    return f"{round(value['mean'], 2) + 0.0:{sign}.2f}{spread}"  # no minus before 0.00


def _notes(comparison: Mapping[str, Any]) -> list[str]:
    seeds = sorted({run["seed"] for row in comparison["rows"] for run in row["runs"]})
    named = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    spread = "; mean ± sample standard deviation" if len(seeds) > 1 else ""
    base = comparison["reference"]
    delta = (
        f"Δ: mean relative gain over the mean scores of {base['title']}."
        if base["scores"]
        else f"Δ is left out: {base['missing']}."
    )
    notes = [f"{named.capitalize()}{spread}. Bold: the best of a column. {delta}"]
    if "delta" in _columns(comparison):
        notes += ["", "![Δ against trainable parameters of the encoder](comparison.png)"]
    for row in comparison["rows"]:
        if missing := row["missing"]:
            more = len(missing) - _MOST_MISSING
            listed = "; ".join(missing[:_MOST_MISSING]) + (f"; {more} more" if more > 0 else "")
            notes += ["", f"† {row['title']} is incomplete: {listed}."]
    return notes
