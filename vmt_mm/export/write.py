"""Write a model's file, and keep it only if it is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.export.check import compare_outputs
from vmt_mm.export.formats import Format, Run
from vmt_mm.export.outputs import TaskOutputs
from vmt_mm.export.rewrites import traceable
from vmt_mm.utils.files import atomic_write

#: Faults that a message lists.
_SHOWN = 3


def write_checked(
    form: Format,
    wrapped: TaskOutputs,
    inputs: tuple[Tensor, Sequence[Tensor]],
    dynamic: str | None,
    description: Mapping[str, Any],
    path: Path,
    advance: Callable[[], object] = lambda: None,
) -> tuple[Run, dict[str, float]]:
    """Trace a model, run what was written, and keep the file if it agrees with PyTorch.

    Args:
        form: the format.
        wrapped: the model, in eval mode on the CPU.
        inputs: images to trace with and those to compare with, see :func:`example_inputs`.
        dynamic: None, 'batch' or 'all'.
        description: what the file says of its model.
        path: the file.
        advance: called after each of ``2 + len(inputs[1])`` steps.

    Returns:
        What runs the file, and task -> largest difference, see :func:`compare_outputs`.

    Raises:
        InputError: if it differs; then ``path`` is what it was before.
    """
    example, others = inputs
    with atomic_write(path) as partial:
        trial = partial.with_suffix(partial.suffix + form.suffix)  # exporters go by the suffix
        try:
            with traceable(wrapped), torch.no_grad():
                form.write(wrapped, example, dynamic, description, trial)
            advance()
            run = form.load(trial)
            advance()
            largest, faults = compare_outputs(wrapped, run, others, advance)
            if faults:
                hint = "a part of this model keeps the traced sizes: take --dynamic batch, or none"
                raise InputError(
                    f"{path}: not kept, what was exported differs from PyTorch: "
                    f"{'; '.join(faults[:_SHOWN])}{f'; {hint}' if dynamic else ''}"
                )
            trial.replace(partial)
        finally:
            trial.unlink(missing_ok=True)
    return run, largest
