"""Export formats: how to write and run each."""

import importlib
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.onnx.errors import OnnxExporterError
from torch.overrides import TorchFunctionMode

from vmt_mm.errors import InputError
from vmt_mm.export.outputs import DESCRIPTION, TaskOutputs
from vmt_mm.utils import compat

#: The newest opset that the TorchScript exporter writes in all supported versions of PyTorch.
OPSET = 17
#: Choices of dynamic dimensions, in addition to None.
DYNAMIC = ("batch", "all")
#: What to try if an export with these dynamic dimensions fails.
LESS_DYNAMIC = {"batch": "omit --dynamic", "all": "use --dynamic batch, or omit it"}
#: Choice of dynamic dimensions -> dimension -> its name.
_AXES: Mapping[str | None, Mapping[int, str]] = {
    None: {},
    "batch": {0: "batch"},
    "all": {0: "batch", 2: "height", 3: "width"},
}
#: Images (B, 3, H, W) -> one tensor per task.
Forward = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Format:
    """A file format: its dynamic dimensions, and functions that write it and run it on the CPU.

    ``check`` raises InputError if a package is missing or too old. ``write`` takes the model,
    images to trace with, the dynamic dimensions, description and path.
    """

    suffix: str
    dynamic: tuple[str, ...]
    check: Callable[[], object]
    write: Callable[[TaskOutputs, Tensor, str | None, Mapping[str, Any], Path], None]
    load: Callable[[Path], Forward]


def _check_onnx() -> None:
    """Raise InputError if a package is missing."""
    for name in ("onnx", "onnxruntime"):
        _import(name)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"ONNX export needs {name}: run pip install 'vmt_mm[export]', or pip install {name}"
        ) from None


def _write_onnx(
    wrapped: TaskOutputs,
    example: Tensor,
    dynamic: str | None,
    description: Mapping[str, Any],
    path: Path,
) -> None:
    """Write ONNX by PyTorch's TorchScript exporter, with the description in the metadata.

    The exporter with ``dynamo=True`` cannot keep sizes dynamic here: it proves conditions on sizes
    for minutes and then makes them constant. The TorchScript exporter traces their computation.
    """
    onnx, axes, names = _import("onnx"), _AXES[dynamic], ["images", *wrapped.names]
    try:
        with (
            warnings.catch_warnings(),
            _RepeatAlongPositiveDims(),
            compat.script_exporter() as options,
        ):
            warnings.simplefilter("ignore")  # of the tracer; the result is compared afterwards
            torch.onnx.export(
                wrapped,
                (example,),
                str(path),
                input_names=names[:1],
                output_names=names[1:],
                opset_version=OPSET,
                dynamic_axes=dict.fromkeys(names, axes) if axes else None,
                **options,
            )
    except OnnxExporterError as error:
        reason = re.split(r"\n|\. Please feel free|\s+\[Caused by", str(error))[0]
        hint = LESS_DYNAMIC.get(dynamic or "", "use another --size")
        raise InputError(
            f"a part of this model cannot be exported to ONNX: {reason}; {hint}, or another head"
        ) from error
    # Fold constants: quantisers only look at initialisers.
    _open_session(path, "ORT_ENABLE_BASIC", optimized_model_filepath=str(path))
    model = onnx.load(str(path))
    used = [opset for opset in model.opset_import if not opset.domain]  # drop onnxruntime's others
    model.ClearField("opset_import")
    model.opset_import.extend(used)
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    for output, values in zip(model.graph.output, wrapped(example), strict=True):
        dims = output.type.tensor_type.shape.dim
        del dims[:]
        for axis, length in enumerate(values.shape):
            fixed = onnx.TensorShapeProto.Dimension(dim_value=length)
            dims.append(sizes[axis] if axis in axes else fixed)
    onnx.helper.set_model_props(model, {DESCRIPTION: json.dumps(description)})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


class _RepeatAlongPositiveDims(TorchFunctionMode):
    """Replace a negative ``dim`` of ``repeat_interleave``, as in timm's rotary embeddings.

    PyTorch's exporter adds the rank to it in place, which changes all equal constants of the graph.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call ``func``."""
        if func is Tensor.repeat_interleave and len(args) == 3 and args[2] < 0:
            args = (*args[:2], args[2] + args[0].ndim)
        return func(*args, **(kwargs or {}))


def _load_onnx(path: Path) -> Forward:
    """Open a session on the CPU, with PyTorch's number of threads."""
    session = _open_session(path, "ORT_ENABLE_ALL", intra_op_num_threads=torch.get_num_threads())

    def run(images: Tensor) -> list[Tensor]:
        """Return one tensor per task."""
        values = session.run(None, {"images": np.ascontiguousarray(images.numpy())})
        return [torch.from_numpy(value) for value in values]

    return run


def _open_session(path: Path, level: str, **options: Any) -> Any:
    """Open an onnxruntime session on the CPU; InputError if it cannot load the file."""
    runtime = _import("onnxruntime")
    chosen = runtime.SessionOptions()
    chosen.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, level)
    # spinning threads would slow down functions that are timed in turn with the file
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "0")
    chosen.log_severity_level = 4  # errors are raised and need not be printed
    for name, value in options.items():
        setattr(chosen, name, value)
    try:
        return runtime.InferenceSession(str(path), chosen, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own exceptions
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"onnxruntime cannot load the exported model: {reason}") from error


def _check_program() -> None:
    compat.need("2.7", "--format torch-export (--format onnx does not)")


def _write_program(
    wrapped: TaskOutputs,
    example: Tensor,
    dynamic: str | None,
    description: Mapping[str, Any],
    path: Path,
) -> None:
    """Write a program of ``torch.export``, with the description as an extra file."""
    shapes = {"images": {0: torch.export.Dim("batch", min=1)}} if dynamic else None
    program = torch.export.export(wrapped, (example,), dynamic_shapes=shapes)
    torch.export.save(program, str(path), extra_files={DESCRIPTION: json.dumps(description)})


def _load_program(path: Path) -> Forward:
    """Load a program of ``torch.export``, as a function that runs it without gradients."""
    return torch.no_grad()(torch.export.load(str(path)).module())


#: Name on the command line -> format.
FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", DYNAMIC, _check_onnx, _write_onnx, _load_onnx),
    # with dynamic sizes, its export does not finish within minutes
    "torch-export": Format(".pt2", DYNAMIC[:1], _check_program, _write_program, _load_program),
}
