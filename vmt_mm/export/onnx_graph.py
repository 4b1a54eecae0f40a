"""An ONNX graph as other tools expect it: weights are initialisers, and sizes can be followed.

Quantisers and converters look at initialisers alone. A tracer writes down how a weight came to be
(factors multiplied, columns sliced), so what depends on no input is computed once, here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from torch.onnx import symbolic_helper

Dimension = onnx.TensorShapeProto.Dimension
#: Operators that give other values at every run.
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli")
_PAD = "aten::pad"
#: PyTorch's modes of padding -> those of ONNX.
_PAD_MODES = dict(constant="constant", replicate="edge", reflect="reflect")


@contextmanager
def legible_pads(opset: int) -> Iterator[None]:
    """Let paddings be exported as a list of sizes.

    PyTorch's own exporter reorders the sizes by a reshape, a reversal and a transpose. Where they
    are computed from the input's, shape inference loses them there.
    """
    torch.onnx.register_custom_op_symbolic(_PAD, _export_pad, opset)
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic(_PAD, opset)


def _export_pad(
    # not Any, which is not a class in Python 3.10: PyTorch 2.1 asks whose subclass it is
    g: object,
    x: torch.Value,
    pad: torch.Value,
    mode: torch.Value,
    value: torch.Value,
) -> torch.Value:
    """``F.pad``, whose sizes are (before, after) from the last dimension on."""
    kind = _PAD_MODES[symbolic_helper._get_const(mode, "s", "mode")]
    if symbolic_helper._is_packed_list(pad):
        sizes = symbolic_helper._unpack_list(pad)
    else:
        numbers = symbolic_helper._get_const(pad, "is", "pad")
        sizes = [g.op("Constant", value_t=torch.tensor(number)) for number in numbers]
    sizes = [symbolic_helper._unsqueeze_helper(g, size, [0]) for size in sizes]
    untouched = symbolic_helper._get_tensor_rank(x) - len(sizes) // 2
    none = [g.op("Constant", value_t=torch.tensor([0]))] * untouched
    pads = g.op("Concat", *none, *sizes[-2::-2], *none, *sizes[::-2], axis_i=0)
    fill = [] if symbolic_helper._is_none(value) else [symbolic_helper._if_scalar_type_as(value, x)]
    return g.op("Pad", x, pads, *fill, mode_s=kind)


def declare_outputs(
    model: ModelProto, shapes: Sequence[Sequence[int]], axes: Collection[int]
) -> None:
    """Write the outputs' sizes into a model.

    Args:
        model: is changed.
        shapes: of the traced outputs, (B, C, H, W) each.
        axes: the dimensions that take the input's names; the others are fixed.
    """
    named = model.graph.input[0].type.tensor_type.shape.dim
    for output, shape in zip(model.graph.output, shapes, strict=True):
        dims = output.type.tensor_type.shape.dim
        del dims[:]
        for axis, length in enumerate(shape):
            dims.append(named[axis] if axis in axes else Dimension(dim_value=length))


def fold_constants(model: ModelProto) -> None:
    """Compute what depends on no input; initialisers of equal values become one."""
    graph = model.graph
    fixed, rest = _split(graph)
    read = {name for node in rest for name in _read_by(node)}
    names = [name for node in fixed for name in node.output if name in read]
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    values = _compute(model, fixed, names)
    kept += [numpy_helper.from_array(value, name) for name, value in values.items()]
    for field in ("node", "initializer", "value_info"):
        graph.ClearField(field)
    graph.node.extend(rest)
    graph.initializer.extend(_share(graph, kept))


def _split(graph: GraphProto) -> tuple[list[NodeProto], list[NodeProto]]:
    """The nodes that depend on no input, and the others; in order."""
    known = {tensor.name for tensor in graph.initializer}
    results = {output.name for output in graph.output}
    fixed, rest = [], []
    for node in graph.node:
        foldable = node.op_type not in _RANDOM and results.isdisjoint(node.output)
        if foldable and known.issuperset(_read_by(node)):
            known.update(node.output)
            fixed.append(node)
        else:
            rest.append(node)
    return fixed, rest


def _read_by(node: NodeProto) -> Iterator[str]:
    """Names of what a node reads, in the graphs of its branches too."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _read_by(inner)


def _compute(
    model: ModelProto, nodes: Sequence[NodeProto], names: Sequence[str]
) -> Mapping[str, np.ndarray]:
    """Values of the names that the nodes give."""
    if not names:
        return {}
    read = {name for node in nodes for name in _read_by(node)}
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = "constants"
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(t for t in model.graph.initializer if t.name in read)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return dict(zip(names, session.run(list(names), {}), strict=True))


def _share(graph: GraphProto, tensors: Sequence[TensorProto]) -> list[TensorProto]:
    """The tensors of different values; nodes read the first of equal ones."""
    first: dict[tuple, TensorProto] = {}
    stands_in: dict[str, str] = {}
    for tensor in tensors:
        value = numpy_helper.to_array(tensor)
        same = first.setdefault((tensor.data_type, value.shape, value.tobytes()), tensor)
        stands_in[tensor.name] = same.name
    _rename(graph, stands_in)
    return list(first.values())


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Let nodes read other tensors, in the graphs of branches too."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for attribute in node.attribute:
            _rename(attribute.g, names)
