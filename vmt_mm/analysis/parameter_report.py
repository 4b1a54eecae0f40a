"""Parameter counts of experiments as records and as a table, beside the paper's."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from vmt_mm.analysis.models import Experiment
from vmt_mm.analysis.paper_table import PAPER_TABLE
from vmt_mm.analysis.parameters import ParameterSummary, summarize_parameters


def summarize_experiment(experiment: Experiment) -> ParameterSummary:
    """Count the parameters of what a config stands for; no weights or data are needed."""
    summary = summarize_parameters(experiment.build_models(), experiment.build_plain_encoder())
    gc.collect()  # encoders refer to themselves; those of the next config need their memory
    return summary


def parameter_record(path: str, summary: ParameterSummary) -> dict[str, Any]:
    """A row for JSON: counts are whole numbers, shares are fractions of 1."""
    record = {
        "config": path,
        **asdict(summary),
        "share_of_one_encoder": summary.share_of_one_encoder,
        "share_of_an_encoder_per_task": summary.share_of_an_encoder_per_task,
    }
    if printed := PAPER_TABLE.get(Path(path).stem):
        record["paper_millions"] = dict(zip(("encoder", "all"), printed, strict=True))
    return record


def parameter_comparison(summaries: Mapping[str, ParameterSummary]) -> Table:
    """Table of the counts of several configs, by path.

    The columns of the paper's tables, in millions, stand beside ours where a config is in them.
    """
    table = Table(
        title="parameters",
        caption="T encoders: one for each task, of which the paper gives percentages",
    )
    table.add_column("config", overflow="fold")
    headers = ["trainable\nencoder", "output\nnorms", "decoders", "all", "frozen"]
    headers += ["% of one\nencoder", "% of T\nencoders"]
    in_paper = [path for path in summaries if Path(path).stem in PAPER_TABLE]
    headers += ["here, M:\nencoder / all", "paper, M:\nencoder / all"] if in_paper else []
    for header in headers:
        table.add_column(header, justify="right")
    for path, summary in summaries.items():
        counts = [
            summary.encoder_trainable,
            summary.output_norms,
            summary.decoder_trainable,
            summary.total_trainable,
            summary.frozen,
        ]
        cells = [f"{count:,}" for count in counts]
        shares = (summary.share_of_one_encoder, summary.share_of_an_encoder_per_task)
        cells += [f"{100 * share:.2f}" for share in shares]
        if path in in_paper:
            own = (summary.encoder_trainable / 1e6, summary.total_trainable / 1e6)
            cells += [_pair(own), _pair(PAPER_TABLE[Path(path).stem])]
        table.add_row(Path(path).stem, *cells)
    return table


def _pair(millions: tuple[float, float]) -> str:
    return " / ".join(f"{value:.2f}" for value in millions)
