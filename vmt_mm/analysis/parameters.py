"""Count parameters, and compare the counts with the paper's.

Paper: VMT-Adapter, AAAI 2024, https://arxiv.org/abs/2312.08733, Tables 2 and 3.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import nn

from vmt_mm.analysis.experiment import Experiment
from vmt_mm.analysis.tables import table_of
from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.peft import PEFTMethod

#: Config file without suffix -> trainable parameters of (encoder, encoder and decoders) in
#: millions, as Tables 2 and 3 print them: Swin-T, four tasks of PASCAL-Context, All-MLP decoders.
PAPER_TABLE: dict[str, tuple[float, float]] = {
    "single_task_full_swin-t_pascal": (110.07, 112.62),
    "decoders_swin-t_pascal": (0.00, 2.55),
    "multi_task_full_swin-t_pascal": (27.51, 30.06),
    "multiple_bitfit_swin-t_pascal": (0.30, 2.85),
    "multiple_relative_bias_swin-t_pascal": (0.09, 2.64),
    "multiple_lora_swin-t_pascal": (0.32, 2.87),
    "multiple_adapter_swin-t_pascal": (8.69, 11.24),
    "multiple_low_rank_adapter_swin-t_pascal": (0.34, 2.89),
    "shared_bitfit_swin-t_pascal": (0.08, 2.63),
    "shared_relative_bias_swin-t_pascal": (0.03, 2.58),
    "shared_lora_swin-t_pascal": (0.13, 2.68),
    "shared_adapter_swin-t_pascal": (2.17, 4.71),
    "shared_low_rank_adapter_swin-t_pascal": (0.10, 2.62),
    "hyperformer_swin-t_pascal": (72.77, 75.32),
    "polyhistor_swin-t_pascal": (6.41, 8.96),
    "polyhistor-lite_swin-t_pascal": (0.41, 2.96),
    "vmt_swin-t_pascal_rho1": (4.36, 6.91),
    "vmt_swin-t_pascal_rho2": (2.21, 4.56),  # printed so; 2.21 + 2.55 is 4.76
    "vmt_swin-t_pascal": (1.13, 3.68),
    "vmt_swin-t_pascal_rho8": (0.59, 3.14),
    "vmt-lite_swin-t_pascal": (0.40, 2.95),
    "vmt-lite_swin-t_pascal_m6": (0.22, 2.77),
    "vmt-lite_swin-t_pascal_m12": (0.15, 2.70),
}
#: Column of the table -> count.
_COLUMNS = {
    "trainable\nencoder": "encoder_trainable",
    "output\nnorms": "output_norms",
    "decoders": "decoder_trainable",
    "all": "total_trainable",
    "frozen": "frozen",
}
_OUTPUT_NORM = re.compile(r"^norm\d\.")
_OF_METHOD = "peft."


def count_parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Count (trainable, all) parameters: 'encoder', 'output norms', 'head <task>' of each, 'sum'.

    The row of the encoder includes the PEFT method. The four output norms, which pretrained
    checkpoints do not have, are a row of their own, as in the paper's counts; where the method
    counts them as its own, their trainable parameters are in the encoder's row.
    """
    method = getattr(model.backbone, "peft", None) or PEFTMethod()
    rows = {part: [0, 0] for part in ("encoder", "output norms")}
    rows |= {f"head {task}": [0, 0] for task in model.heads} | {"sum": [0, 0]}

    def add(part: str, parameter: nn.Parameter) -> None:
        for row in (rows[part], rows["sum"]):
            row[0] += parameter.numel() * parameter.requires_grad
            row[1] += parameter.numel()

    for name, parameter in model.backbone.named_parameters():
        if name.startswith(_OF_METHOD):
            name = method.original_name(name.removeprefix(_OF_METHOD))
        own = method.counts_output_norms and parameter.requires_grad
        add("output norms" if _OUTPUT_NORM.match(name) and not own else "encoder", parameter)
    for task, head in model.heads.items():
        for parameter in head.parameters():
            add(f"head {task}", parameter)
    return {part: (row[0], row[1]) for part, row in rows.items()}


def summarize_experiment(experiment: Experiment) -> dict[str, Any]:
    """Count the parameters of all models of a config.

    Returns:
        ``encoder_trainable``, ``output_norms``, ``decoder_trainable`` and their sum
        ``total_trainable``; ``frozen``; ``encoder``: of one pretrained encoder, without output
        norms; number of ``tasks`` and ``models``; ``passes``, see :func:`find_passes`; the share of
        ``encoder_trainable`` of one encoder and, as in the paper, of one for each task;
        ``paper_millions``: encoder and all, where the paper has the config.
    """
    models, plain = experiment.build_models(), experiment.build_plain_encoder()
    counts = [count_parameters(model) for model in models]
    encoder, norms, total = (
        sum(count[part][0] for count in counts) for part in ("encoder", "output norms", "sum")
    )
    one = sum(p.numel() for n, p in plain.named_parameters() if not _OUTPUT_NORM.match(n))
    tasks = sum(len(model.tasks) for model in models)
    summary = dict(
        config=experiment.path,
        encoder_trainable=encoder,
        output_norms=norms,
        decoder_trainable=total - encoder - norms,
        total_trainable=total,
        frozen=sum(count["sum"][1] for count in counts) - total,
        encoder=one,
        tasks=tasks,
        models=len(models),
        passes=find_passes(models),
        share_of_one_encoder=encoder / one,
        share_of_an_encoder_per_task=encoder / (one * tasks),
    )
    if printed := PAPER_TABLE.get(experiment.name):
        summary["paper_millions"] = dict(zip(("encoder", "all"), printed, strict=True))
    del models, plain
    gc.collect()  # encoders contain reference cycles
    return summary


def find_passes(models: Sequence[MultiTaskSegmentor]) -> str:
    """'shared' if one pass through one encoder serves all their tasks, else 'per_task'."""
    per_task = len(models) > 1 or models[0].backbone.peft.per_task_forward
    return "per_task" if per_task else "shared"


def parameter_comparison(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """Table of the counts of several configs, next to the paper's where it has them."""
    rows = []
    for s in summaries:
        row = {"config": Path(s["config"]).stem}
        row |= {name: f"{s[key]:,}" for name, key in _COLUMNS.items()}
        row["% of one\nencoder"] = f"{100 * s['share_of_one_encoder']:.2f}"
        row["% of T encoders,\none for each task"] = (
            f"{100 * s['share_of_an_encoder_per_task']:.2f}"
        )
        if paper := s.get("paper_millions"):
            own = (s["encoder_trainable"] / 1e6, s["total_trainable"] / 1e6)
            row["here, M:\nencoder / all"] = "{:.2f} / {:.2f}".format(*own)
            row["paper, M:\nencoder / all"] = "{:.2f} / {:.2f}".format(*paper.values())
        rows.append(row)
    return table_of("parameters", rows)
