"""The formats: how each is written, and how it is run again."""

from __future__ import annotations

import importlib
import json
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.onnx.errors import OnnxExporterError

from vmt_mm.errors import InputError
from vmt_mm.export.model_spec import DESCRIPTION
from vmt_mm.export.outputs import TaskOutputs
from vmt_mm.utils import compat

#: The newest one that the TorchScript exporter writes in all versions of PyTorch that serve here.
OPSET = 17
#: What may be dynamic beside nothing.
DYNAMIC = ("batch", "all")
#: What is dynamic -> dimensions that have a name.
_AXES: Mapping[str | None, Mapping[int, str]] = {
    None: {},
    "batch": {0: "batch"},
    "all": {0: "batch", 2: "height", 3: "width"},
}
#: Images (B, 3, H, W) -> one tensor a task.
Run = Callable[[Tensor], Sequence[Tensor]]


class Format(ABC):
    """A file format of exported models."""

    #: Suffix of its files.
    suffix: str
    #: What it can keep dynamic.
    dynamic: tuple[str, ...]

    def check(self, dynamic: str | None) -> None:
        """Raise InputError if a package is missing, or the sizes cannot be dynamic."""
        if dynamic is not None and dynamic not in self.dynamic:
            raise InputError(
                f"{self.suffix} files take images of one size alone, since torch.export does not "
                f"end in minutes where size is left open; take --dynamic {self.dynamic[-1]}, or "
                "--format onnx"
            )

    @abstractmethod
    def write(
        self,
        wrapped: TaskOutputs,
        example: Tensor,
        dynamic: str | None,
        description: Mapping[str, Any],
        path: Path,
    ) -> None:
        """Trace with ``example`` (B, 3, H, W) and write ``path``."""

    @abstractmethod
    def load(self, path: Path) -> Run:
        """Read a file and give a function that runs it on the CPU."""


class Onnx(Format):
    """ONNX, by PyTorch's TorchScript exporter.

    The exporter by ``torch.export`` (``dynamo=True``) keeps no size dynamic here: it proves
    conditions on sizes for minutes and then makes constants of them. This one records how each size
    follows from the input's.
    """

    suffix = ".onnx"
    dynamic = DYNAMIC

    def check(self, dynamic: str | None) -> None:
        """Raise InputError if onnx or onnxruntime is missing."""
        super().check(dynamic)
        for name in ("onnx", "onnxruntime"):
            _import(name)

    def write(
        self,
        wrapped: TaskOutputs,
        example: Tensor,
        dynamic: str | None,
        description: Mapping[str, Any],
        path: Path,
    ) -> None:
        """Write one file, with the description in its metadata."""
        onnx = _import("onnx")
        from vmt_mm.export import onnx_graph  # which needs onnx, an extra

        axes = _AXES[dynamic]
        names = ["images", *wrapped.names]
        with warnings.catch_warnings(), onnx_graph.legible_pads(OPSET), _one_error(dynamic):
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
        model = onnx.load(str(path))
        onnx_graph.fold_constants(model)
        onnx_graph.declare_outputs(model, [x.shape for x in wrapped(example)], axes)
        onnx.helper.set_model_props(model, {DESCRIPTION: json.dumps(description)})
        onnx.checker.check_model(model)
        onnx.save(model, str(path))

    def load(self, path: Path) -> Run:
        """Open a session on the CPU, with as many threads as PyTorch has."""
        runtime = _import("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # threads that spin for more work would slow down what is timed in turn with the file
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # an error is raised, and need not be printed too
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def run(images: Tensor) -> list[Tensor]:
            values = session.run(None, {"images": np.ascontiguousarray(images.numpy())})
            return [torch.from_numpy(value) for value in values]

        return run


class TorchExport(Format):
    """``torch.export``'s program, a ``.pt2`` file; the description is ``vmt_mm.json`` in it."""

    suffix = ".pt2"
    dynamic = DYNAMIC[:1]

    def check(self, dynamic: str | None) -> None:
        """Raise InputError if this PyTorch's ``torch.export`` cannot trace the model."""
        super().check(dynamic)
        compat.need("2.7", "--format torch-export (--format onnx does not)")

    def write(
        self,
        wrapped: TaskOutputs,
        example: Tensor,
        dynamic: str | None,
        description: Mapping[str, Any],
        path: Path,
    ) -> None:
        """Write one file."""
        shapes = {"images": {0: torch.export.Dim("batch", min=1)}} if dynamic else None
        program = torch.export.export(wrapped, (example,), dynamic_shapes=shapes)
        files = {DESCRIPTION: json.dumps(description)}
        torch.export.save(program, str(path), extra_files=files)

    def load(self, path: Path) -> Run:
        """Load the program."""
        return torch.no_grad()(torch.export.load(str(path)).module())


@contextmanager
def _one_error(dynamic: str | None) -> Iterator[None]:
    """Say in one line what PyTorch's exporter to ONNX cannot do."""
    try:
        yield
    except OnnxExporterError as error:
        reason = re.split(r"\n|\. Please feel free|\s+\[Caused by", str(error))[0]
        hint = "take --dynamic batch, or none" if dynamic else "take another --size"
        raise InputError(
            f"a part of this model has no counterpart in ONNX: {reason}; {hint}, or another head"
        ) from error


#: Name on the command line -> format.
FORMATS: Mapping[str, Format] = {"onnx": Onnx(), "torch-export": TorchExport()}


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"exporting to ONNX needs {name}: pip install 'vmt_mm[export]' or {name}"
        ) from None
