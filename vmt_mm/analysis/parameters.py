"""Count parameters."""

from __future__ import annotations

import re

from torch import nn

_OUTPUT_NORM = re.compile(r"^norm\d\.")


def count_parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Count (trainable, all) parameters of a multi-task model.

    The encoder's row holds what the PEFT method adds to it, too; the four output norms, which
    pretrained checkpoints do not have, are a row of their own, as in the paper's counts.

    Returns:
        'encoder', 'output norms', 'head <task>' for every task, 'sum'.
    """
    rows = {"encoder": [0, 0], "output norms": [0, 0]}
    for name, parameter in model.backbone.named_parameters():
        row = rows["output norms" if _OUTPUT_NORM.match(name) else "encoder"]
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
