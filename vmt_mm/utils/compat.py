"""Features of newer PyTorch for all versions from 2.1; no other module checks the version."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest import mock

import numpy as np
import torch
from mmengine.utils import digit_version
from torch import Tensor
from torch.utils import flop_counter

from vmt_mm.errors import InputError


def has(version: str) -> bool:
    """Whether this PyTorch has this version or a newer one."""
    return digit_version(torch.__version__) >= digit_version(version)


#: Whether ``torch.load(weights_only=True)`` accepts additional types by their pickled names.
LISTS_TYPES = has("2.6")
#: Whether Adam, AdamW and SGD have a fused step on CPUs.
FUSES_ON_CPU = has("2.4")
#: The unsigned 16-bit type, or None.
UINT16: torch.dtype | None = getattr(torch, "uint16", None)  # 2.3
#: Whether ``torch.compile`` is tracing the call.
is_compiling: Callable[[], bool] = getattr(
    torch.compiler, "is_compiling", torch._utils.is_compiling
)  # 2.2
_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)  # 2.7


def is_exporting() -> bool:
    """Whether ``torch.export`` or ``torch.jit.trace`` is tracing; sizes may then be symbolic."""
    return _is_exporting() or torch.jit.is_tracing()


def take_first(x: Tensor, dim: int, length: int) -> Tensor:
    """Return the first ``length`` entries along a dimension."""
    if is_exporting():  # onnxruntime cannot infer the shape of a slice of symbolic length
        return x.index_select(dim, torch.arange(length, device=x.device))
    return x.narrow(dim, 0, length)


def need(version: str, what: str) -> None:
    """Raise InputError if this PyTorch is older than ``version``, which ``what`` needs."""
    if not has(version):
        raise InputError(f"{what} needs PyTorch {version} or newer, got {torch.__version__}")


def autocast_dtype(kind: str) -> torch.dtype | None:
    """Return the dtype of autocast on a type of device, such as 'cpu'; None if it is off."""
    if hasattr(torch, "get_autocast_dtype"):  # 2.4
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if kind == "cuda":
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    enabled = getattr(torch, f"is_autocast_{kind}_enabled", lambda: False)
    return getattr(torch, f"get_autocast_{kind}_dtype")() if enabled() else None


def from_numpy(array: np.ndarray) -> Tensor:
    """Like ``torch.from_numpy``; converts ``uint16`` to ``int32`` if PyTorch lacks ``uint16``."""
    if array.dtype == np.uint16 and UINT16 is None:
        array = array.astype(np.int32)
    return torch.from_numpy(array)


def safe_types(types: Iterable[Any]) -> AbstractContextManager:
    """Allow these types in ``torch.load(weights_only=True)``, if :data:`LISTS_TYPES`."""
    return torch.serialization.safe_globals(list(types)) if LISTS_TYPES else nullcontext()


@contextmanager
def script_exporter() -> Iterator[dict[str, Any]]:
    """Silence ``torch.onnx.export``'s TorchScript exporter; yield the arguments that select it."""
    known, log = inspect.signature(torch.onnx.export).parameters, "_jit_onnx_log"
    # PyTorch 2.12 ignores that its log is disabled, and prints the graph before it raises
    silent = mock.patch.object(torch._C, log, lambda *_: None)
    with silent if hasattr(torch._C, log) else nullcontext():
        yield {"dynamo": False} if "dynamo" in known else {}


def _cpu_attention_flops() -> dict[Any, Callable[..., int]]:
    """Formulas of CPUs' fused attention (from 2.3), which PyTorch's counter lacks."""
    name = "_scaled_dot_product_flash_attention_for_cpu"
    formulas = {
        name: lambda *shapes, **_: flop_counter.sdpa_flop_count(*shapes[:3]),
        f"{name}_backward": lambda *shapes, **_: flop_counter.sdpa_backward_flop_count(*shapes[:4]),
    }
    aten = torch.ops.aten
    return {getattr(aten, key): count for key, count in formulas.items() if hasattr(aten, key)}


#: ``custom_mapping`` for ``FlopCounterMode``: operator -> formula of shapes.
CPU_ATTENTION_FLOPS = _cpu_attention_flops()
