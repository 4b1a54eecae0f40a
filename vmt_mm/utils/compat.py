"""What newer PyTorch has, for every version from 2.1 on; no other file asks for the version."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from mmengine.utils import digit_version
from torch import Tensor
from torch.utils import flop_counter

from vmt_mm.errors import InputError


def has(version: str) -> bool:
    """Whether this PyTorch is that version or a newer one."""
    return digit_version(torch.__version__) >= digit_version(version)


#: Whether ``torch.load(weights_only=True)`` takes a list of types by their names in files.
LISTS_TYPES = has("2.6")
#: Whether Adam, AdamW and SGD have a fused step on CPUs.
FUSES_ON_CPU = has("2.4")
#: The type of 16 bits without sign, or None.
UINT16: torch.dtype | None = getattr(torch, "uint16", None)  # 2.3
#: Whether a call is traced by ``torch.compile``.
is_compiling: Callable[[], bool] = getattr(
    torch.compiler, "is_compiling", torch._utils.is_compiling
)  # 2.2
_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)  # 2.7


def is_exporting() -> bool:
    """Whether the call is traced for another runtime, where sizes are symbols and not numbers."""
    return _is_exporting() or torch.jit.is_tracing()


def take_first(x: Tensor, dim: int, length: int) -> Tensor:
    """The first ``length`` entries along a dimension."""
    if is_exporting():  # onnxruntime cannot infer the shape of a slice of symbolic length
        return x.index_select(dim, torch.arange(length, device=x.device))
    return x.narrow(dim, 0, length)


def need(version: str, what: str) -> None:
    """Raise InputError if this PyTorch is older than ``version``, which ``what`` needs."""
    if not has(version):
        raise InputError(f"{what} needs PyTorch {version} or newer, this is {torch.__version__}")


def autocast_dtype(kind: str) -> torch.dtype | None:
    """The type that autocast computes in on a kind of device, such as 'cpu'; None if it is off."""
    if hasattr(torch, "get_autocast_dtype"):  # 2.4
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if kind == "cuda":
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    enabled = getattr(torch, f"is_autocast_{kind}_enabled", lambda: False)
    return getattr(torch, f"get_autocast_{kind}_dtype")() if enabled() else None


def from_numpy(array: np.ndarray) -> Tensor:
    """``torch.from_numpy``; where PyTorch has no ``uint16``, such an array becomes ``int32``."""
    if array.dtype == np.uint16 and UINT16 is None:
        array = array.astype(np.int32)
    return torch.from_numpy(array)


def safe_types(types: Iterable[Any]) -> AbstractContextManager:
    """Let ``torch.load(weights_only=True)`` take these types too, where it :data:`LISTS_TYPES`."""
    return torch.serialization.safe_globals(list(types)) if LISTS_TYPES else nullcontext()


def script_exporter_options() -> dict[str, Any]:
    """Arguments by which ``torch.onnx.export`` takes its TorchScript exporter, told to be quiet."""
    if hasattr(torch._C, "_jit_set_onnx_log_enabled"):
        torch._C._jit_set_onnx_log_enabled(False)  # it would print the graph and then raise
    known = inspect.signature(torch.onnx.export).parameters
    return {"dynamo": False} if "dynamo" in known else {}


def _cpu_attention_flops() -> dict[Any, Callable[..., int]]:
    """Operations of CPUs' fused attention (from 2.3 on), which PyTorch's counter lacks."""
    name = "_scaled_dot_product_flash_attention_for_cpu"
    formulas = {
        name: lambda *shapes, **_: flop_counter.sdpa_flop_count(*shapes[:3]),
        f"{name}_backward": lambda *shapes, **_: flop_counter.sdpa_backward_flop_count(*shapes[:4]),
    }
    aten = torch.ops.aten
    return {getattr(aten, key): count for key, count in formulas.items() if hasattr(aten, key)}


#: ``custom_mapping`` of ``FlopCounterMode``: operator -> formula on shapes.
CPU_ATTENTION_FLOPS = _cpu_attention_flops()
