"""Whether a detector becomes one graph that is right for any number of pictures, in float32.

Exporters fall back in silence: a number of pictures that was read as a plain one stays what it was
in the example, an `if` on it is decided once, and a write into a part of a tensor becomes a copy
of the whole. So the graph is looked at, and run with other numbers of pictures than it was made
from.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node

from ad.core.detector import Detector, Prediction
from ad.core.errors import called_at, listed, raised_at
from ad.core.testing.subject import predict

_EXAMPLE = 2  # pictures: a single one is taken for a dimension that is always 1
_MOST = 64
_OTHERS = 1, 3

_LOW = (torch.bfloat16, torch.float16)
# What may handle low precision in a float32 model: moving numbers, such as a bank's rows.
_MOVES = {
    "alias", "cat", "chunk", "clone", "contiguous", "detach", "expand", "flatten", "gather",
    "index", "index_select", "movedim", "permute", "reshape", "select", "slice", "split",
    "split_with_sizes", "squeeze", "stack", "t", "to", "transpose", "unbind", "unflatten",
    "unsqueeze", "view", "_to_copy", "lift_fresh_copy",
}  # fmt: skip

_PARTS = {"slice", "select", "narrow", "diagonal", "unbind", "unfold", "as_strided"}
_PARTS |= {"chunk", "split", "split_with_sizes", "tensor_split"}
_INDEXED = {"index_put_", "index_fill_", "index_copy_", "index_add_", "scatter_", "scatter_add_"}


def check_export(detector: Detector, images: Tensor, tolerance: float, module: str) -> None:
    """Export a detector for any number of pictures, and see that it is the same.

    Args:
        detector: One that has learnt, in fp32.
        images: ``[B, 3, H, W]``, three or more.
        tolerance: Largest difference of scores and maps, relative and absolute.
        module: Name of a module of its package, where the line to mend is looked for.

    Raises:
        AssertionError: With what is wrong, and what to do about it.
    """
    taken = set(dir(GraphModule)) - set(dir(torch.nn.Module))
    taken &= {name for name, _ in detector.named_children()}
    assert not taken, (
        f"no part of a detector may be named {listed(taken)}, as torch's exported graphs name one "
        "of theirs: rename it"
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        program = _traced(detector, images[:_EXAMPLE], module)
        _check_precision(program)
        _check_writes(program)
        exported = program.module()
        for count in (_EXAMPLE, *_OTHERS):
            some = images[:count]
            msg = "an exported model must score the same"
            if count != _EXAMPLE:
                msg = (
                    f"exported from {_EXAMPLE} pictures, it must score {count} as `forward` does: "
                    "an `if` on how many there are is decided once, when it is exported"
                )
            try:
                alike = _alike(exported(some), predict(detector, some), tolerance)
            except Exception as error:
                msg = f"{msg} ({_first_line(error)}){raised_at(error, module)}"
                raise AssertionError(msg) from error
            assert alike, msg


def _traced(detector: Detector, images: Tensor, module: str) -> ExportedProgram:
    """The graph.

    Raises:
        AssertionError: If there is none, or one for a fixed number of pictures.
    """
    free = (
        "`forward` must leave the number of pictures open when it is exported: take it as "
        "`images.shape[0]`, never by `len` or `int`, and go by no `chunk`, no loop over pictures "
        "and no operation that has two ways, as `torch.cdist` has without `compute_mode`"
    )
    fixed = _FixedAt(module)
    batch = Dim("batch", min=1, max=_MOST)
    try:
        with fixed.watching():
            program = torch.export.export(
                detector, (images,), dynamic_shapes=({0: batch},), strict=False
            )
    except Exception as error:
        msg = (
            "`forward` must be made of operations that torch can export: "
            f"{_first_line(error)}{raised_at(error, module)}"
        )
        if "data-dependent" in msg:
            msg += "; nothing may depend on values, as it does by `if x.max() > 1` or `x.item()`"
        free = f"{free}{fixed.place}"
        raise AssertionError(free if _is_exported(detector, images) else msg) from error
    free = f"{free}{fixed.place}"
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    outputs = [one.meta["val"] for one in output.args[0] if isinstance(one, Node)]
    assert all(isinstance(one.shape[0], torch.SymInt) for one in outputs), free
    return program


def _is_exported(detector: Detector, images: Tensor) -> bool:
    """Whether there is a graph for as many pictures as these."""
    try:
        with _FixedAt("").watching():
            torch.export.export(detector, (images,), strict=False)
    except Exception:  # torch raises many kinds
        return False
    return True


class _FixedAt(logging.Filter):
    """Where a model's code fixes the number of pictures, which torch tells its log alone.

    What torch logs and prints of an export that fails is kept from the terminal.
    """

    def __init__(self, module: str) -> None:
        super().__init__()
        self.module = module
        self.place = ""
        """Such as `` (`knn.py`, line 12, in `forward`)``; empty if none was found."""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
        level = log.level
        log.addFilter(self)
        log.setLevel(logging.INFO)
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                yield
        finally:
            log.setLevel(level)
            log.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if self.module and not self.place and "guard added" in record.getMessage():
            self.place = called_at(self.module, __name__)
        return False


def _check_precision(program: ExportedProgram) -> None:
    advice = (
        "a model in fp32 must compute in float32 alone when it is exported, since engines may have "
        "no other: use `in_precision(setup.precision, device)` in place of `torch.autocast`"
    )
    for node in _operations(program):
        if str(node.target) == "wrap_with_autocast":  # device, type, whether it is on, ...
            assert not node.args[2], f"{advice}; autocast is on for some of it"
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.dtype in _LOW:
            assert _name(node) in _MOVES or not _name(node), (
                f"{advice}; `{_name(node)}` is in {str(value.dtype).removeprefix('torch.')}"
            )


def _check_writes(program: ExportedProgram) -> None:
    for node in _operations(program):
        schema: Any = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable:
            continue
        written = [
            given
            for given, declared in zip(node.args, schema.arguments, strict=False)
            if declared.alias_info is not None and declared.alias_info.is_write
        ]
        in_part = _name(node) in _INDEXED or any(map(_is_part, written))
        assert not in_part, (
            "`forward` must not write into a part of a tensor, as `x[:, :3] = y` or "
            "`x[:, :3] += y` does, since an exported model copies the whole of it each time: "
            "put parts together with `torch.cat`, `F.pad` or `torch.where`"
        )


def _is_part(node: Any) -> bool:  # noqa: ANN401 - arguments of a graph's operation
    """Whether it is a view of a part of another tensor."""
    while isinstance(node, Node) and node.op == "call_function":
        if _name(node) in _PARTS:
            return True
        schema: Any = getattr(node.target, "_schema", None)
        if schema is not None and not any(one.alias_info for one in schema.returns):
            return False  # it makes a tensor of its own
        node = node.args[0]
    return False


def _operations(program: ExportedProgram) -> Iterator[Node]:
    """All of a graph, those inside of regions, too."""
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            yield from (node for node in module.graph.nodes if node.op == "call_function")


def _name(node: Node) -> str:
    """Of an operation, such as `add_`; empty for what computes nothing."""
    schema: Any = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name).partition("::")[2]


def _alike(found: tuple[Tensor, Tensor | None], expected: Prediction, tolerance: float) -> bool:
    pairs = [(found[0], expected.score)]
    if expected.map is not None and found[1] is not None:
        pairs.append((found[1], expected.map))
    return all(torch.allclose(one, other, rtol=tolerance, atol=tolerance) for one, other in pairs)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
