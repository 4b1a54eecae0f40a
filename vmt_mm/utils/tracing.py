"""Whether a call is run or traced."""

from __future__ import annotations

import torch

_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)


def is_exported() -> bool:
    """Whether the call is traced for another runtime, where sizes are symbols and not numbers."""
    return _is_exporting() or torch.jit.is_tracing()
