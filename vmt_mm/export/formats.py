"""The formats: how each is written, and how it is run again."""

from __future__ import annotations

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

from vmt_mm.errors import InputError
from vmt_mm.export.outputs import DESCRIPTION, TaskOutputs
from vmt_mm.utils import compat

#: The newest one that the TorchScript exporter writes in all versions of PyTorch that serve here.
OPSET = 17
#: What may be dynamic besides nothing.
DYNAMIC = ("batch", "all")
#: What is dynamic -> dimensions that have a name.
_AXES: Mapping[str | None, Mapping[int, str]] = {
    None: {},
    "batch": {0: "batch"},
    "all": {0: "batch", 2: "height", 3: "width"},
}
#: Images (B, 3, H, W) -> one tensor per task.
Forward = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Format:
    """A file format: what it can keep dynamic, how it is written, and run again on the CPU.

    ``check`` raises InputError where a package is missing or too old; ``write`` takes the model,
    images to trace with, what is dynamic, description and path.
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
            f"exporting to ONNX needs {name}: pip install 'vmt_mm[export]' or {name}"
        ) from None


def _write_onnx(
    wrapped: TaskOutputs,
    example: Tensor,
    dynamic: str | None,
    description: Mapping[str, Any],
    path: Path,
) -> None:
    """Write ONNX by PyTorch's TorchScript exporter, with the description in the metadata.

    The exporter by ``torch.export`` (``dynamo=True``) keeps no size dynamic here: it proves
    conditions on sizes for minutes and then makes constants of them. This one records how each size
    follows from the input's.
    """
    onnx, axes, names = _import("onnx"), _AXES[dynamic], ["images", *wrapped.names]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: what comes out is compared afterwards
            torch.onnx.export(
                wrapped,
                (example,),
                str(path),
                input_names=names[:1],
                output_names=names[1:],
                opset_version=OPSET,
                dynamic_axes=dict.fromkeys(names, axes) if axes else None,
                **compat.script_exporter_options(),
            )
    except OnnxExporterError as error:
        reason = re.split(r"\n|\. Please feel free|\s+\[Caused by", str(error))[0]
        hint = "take --dynamic batch, or none" if dynamic else "take another --size"
        raise InputError(
            f"a part of this model has no counterpart in ONNX: {reason}; {hint}, or another head"
        ) from error
    # Quantisers look at initialisers alone, so what depends on no input is computed here.
    _open_session(path, "ORT_ENABLE_BASIC", optimized_model_filepath=str(path))
    model = onnx.load(str(path))
    used = [opset for opset in model.opset_import if not opset.domain]  # it lists all it knows
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


def _load_onnx(path: Path) -> Forward:
    """Open a session on the CPU, with as many threads as PyTorch has."""
    session = _open_session(path, "ORT_ENABLE_ALL", intra_op_num_threads=torch.get_num_threads())

    def run(images: Tensor) -> list[Tensor]:
        """One tensor per task."""
        values = session.run(None, {"images": np.ascontiguousarray(images.numpy())})
        return [torch.from_numpy(value) for value in values]

    return run


def _open_session(path: Path, level: str, **options: Any) -> Any:
    """A session of onnxruntime on the CPU, with its optimisations up to a level."""
    runtime = _import("onnxruntime")
    chosen = runtime.SessionOptions()
    chosen.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, level)
    # threads that spin for more work would slow down what is timed in turn with the file
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "0")
    chosen.log_severity_level = 4  # an error is raised, and need not be printed too
    for name, value in options.items():
        setattr(chosen, name, value)
    return runtime.InferenceSession(str(path), chosen, providers=["CPUExecutionProvider"])


def _check_program() -> None:
    compat.need("2.7", "--format torch-export (--format onnx does not)")


def _write_program(
    wrapped: TaskOutputs,
    example: Tensor,
    dynamic: str | None,
    description: Mapping[str, Any],
    path: Path,
) -> None:
    """Write ``torch.export``'s program, with the description as a file in it."""
    shapes = {"images": {0: torch.export.Dim("batch", min=1)}} if dynamic else None
    program = torch.export.export(wrapped, (example,), dynamic_shapes=shapes)
    torch.export.save(program, str(path), extra_files={DESCRIPTION: json.dumps(description)})


def _load_program(path: Path) -> Forward:
    """Read a program; without gradients."""
    return torch.no_grad()(torch.export.load(str(path)).module())


#: Name on the command line -> format.
FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", DYNAMIC, _check_onnx, _write_onnx, _load_onnx),
    # which does not end in minutes where the size is left open
    "torch-export": Format(".pt2", DYNAMIC[:1], _check_program, _write_program, _load_program),
}
