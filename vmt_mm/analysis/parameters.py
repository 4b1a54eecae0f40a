"""Count parameters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.peft import PEFTMethod

_OUTPUT_NORM = re.compile(r"^norm\d\.")
_OF_METHOD = "peft."


@dataclass(frozen=True)
class ParameterSummary:
    """Parameters of all the models that serve a set of tasks.

    Attributes:
        encoder_trainable: of the encoders and their PEFT method; the output norms are in it where
            the method counts them as its own (``counts_output_norms``).
        output_norms: trainable ones of the output norms that are not in ``encoder_trainable``.
        decoder_trainable: of all heads.
        total_trainable: the sum of these three.
        frozen: all others.
        encoder: of one pretrained encoder, without output norms and PEFT method.
        tasks: how many tasks are served.
        models: how many models serve them.
        passes: 'shared' if one pass through an encoder serves all tasks, else 'per_task'.
    """

    encoder_trainable: int
    output_norms: int
    decoder_trainable: int
    total_trainable: int
    frozen: int
    encoder: int
    tasks: int
    models: int
    passes: str

    @property
    def share_of_one_encoder(self) -> float:
        """Trainable of the encoder column, over the parameters of one pretrained encoder."""
        return self.encoder_trainable / self.encoder

    @property
    def share_of_an_encoder_per_task(self) -> float:
        """The same over one encoder for every task, which is what the paper's percentages are."""
        return self.encoder_trainable / (self.encoder * self.tasks)


def count_parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Count (trainable, all) parameters of a multi-task model.

    The encoder's row holds what the PEFT method adds to it, too; the four output norms, which
    pretrained checkpoints do not have, are a row of their own, as in the paper's counts. Of a
    method that counts them as its own, what trains of them is in the encoder's row.

    Returns:
        'encoder', 'output norms', 'head <task>' for every task, 'sum'.
    """
    rows = {"encoder": [0, 0], "output norms": [0, 0]}
    method = getattr(model.backbone, "peft", None) or PEFTMethod()
    own = method.counts_output_norms
    for name, parameter in model.backbone.named_parameters():
        if name.startswith(_OF_METHOD):
            name = method.original_name(name.removeprefix(_OF_METHOD))
        apart = _OUTPUT_NORM.match(name) and not (own and parameter.requires_grad)
        row = rows["output norms" if apart else "encoder"]
        row[0] += parameter.numel() * parameter.requires_grad
        row[1] += parameter.numel()
    for task, head in model.heads.items():
        parameters = list(head.parameters())
        rows[f"head {task}"] = [
            sum(p.numel() for p in parameters if p.requires_grad),
            sum(p.numel() for p in parameters),
        ]
    rows["sum"] = [sum(row[i] for row in rows.values()) for i in (0, 1)]
    return {part: (row[0], row[1]) for part, row in rows.items()}


def summarize_parameters(
    models: Sequence[MultiTaskSegmentor], plain_encoder: nn.Module
) -> ParameterSummary:
    """Count the parameters of the models that together serve a set of tasks.

    Args:
        models: one of all tasks, or one for each task.
        plain_encoder: their encoder without a PEFT method.
    """
    counts = [count_parameters(model) for model in models]
    encoder, norms, total = (
        sum(count[part][0] for count in counts) for part in ("encoder", "output norms", "sum")
    )
    return ParameterSummary(
        encoder_trainable=encoder,
        output_norms=norms,
        decoder_trainable=total - encoder - norms,
        total_trainable=total,
        frozen=sum(count["sum"][1] for count in counts) - total,
        encoder=sum(
            p.numel() for n, p in plain_encoder.named_parameters() if not _OUTPUT_NORM.match(n)
        ),
        tasks=sum(len(model.tasks) for model in models),
        models=len(models),
        passes=find_passes(models),
    )


def find_passes(models: Sequence[MultiTaskSegmentor]) -> str:
    """'shared' if one pass through one encoder serves all their tasks, else 'per_task'."""
    return "per_task" if len(models) > 1 else models[0].backbone.peft.passes
