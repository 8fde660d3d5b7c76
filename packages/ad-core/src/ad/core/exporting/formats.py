"""From a program to files: ONNX, OpenVINO, torch's own archive.

What exporters write by themselves and must not be in a file is taken out: where in whose folder
the source lies. Each file has fp32 throughout.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from ad.core.errors import ExportError, MissingExtraError, SettingError, how_to_install
from ad.core.exporting.tracing import RULES, Traced, quiet
from ad.runtime.config import Format
from ad.runtime.engines.openvino import the_core
from ad.runtime.single import KEY, PATH

OPSET = 18
"""Of the ONNX operators."""

_LARGEST = 1_900_000_000
"""Bytes of numbers in one ONNX file, which may have 2 GB: above, they have a file of their own."""

_NEEDED: dict[Format, tuple[tuple[str, ...], str]] = {
    "onnx": (("onnx", "onnxscript", "onnxruntime"), "onnx"),
    "openvino": (("onnx", "onnxscript", "openvino"), "openvino"),
    "pt2": ((), ""),
}

# These move numbers and compute none: a bank of neighbours may be kept in half precision.
_MOVES = frozenset(
    {
        *("Cast", "CastLike", "Concat", "Constant", "ConstantOfShape", "Expand", "Flatten"),
        *("Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Slice", "Split"),
        *("Squeeze", "Transpose", "Unsqueeze"),
    }
)


def check_installed(format_: Format) -> None:
    """Check that what writes a format, and runs it to set its threshold, is installed.

    Raises:
        MissingExtraError: If not.
    """
    packages, extra = _NEEDED[format_]
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            msg = (
                f"The format `{format_}` needs {package}, which is not installed: "
                f"{how_to_install('ad-core', extra)}"
            )
            raise MissingExtraError(msg) from error


def write_files(traced: Traced, format_: Format, folder: Path) -> dict[str, Path]:
    """Write a program in a format.

    Args:
        traced: The program.
        format_: The format.
        folder: Where.

    Returns:
        The files by their names.

    Raises:
        ExportError: If the exporter fails, or writes what it must not.
    """
    if format_ == "pt2":
        names = _write_archive(traced, folder)
    else:
        names = _write_onnx(traced, folder)
        if format_ == "openvino":
            names = _write_openvino(folder, names)
    return {name: folder / name for name in names}


def _write_onnx(traced: Traced, folder: Path) -> list[str]:
    import onnx

    try:
        with torch.no_grad(), quiet():
            written = torch.onnx.export(
                traced.program,
                (),
                None,
                dynamo=True,
                opset_version=OPSET,
                input_names=[traced.input.name],
                output_names=list(traced.outputs),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = next((line for line in lines if line.startswith("<class")), lines[0])
        msg = (
            f"`{traced.name}` cannot be exported: something in its `forward` has no counterpart "
            f"among the operators of ONNX: {told[:300]}"
        )
        raise ExportError(msg) from error
    assert written is not None
    _forget_sources(written.model)
    numbers = [one.const_value for one in written.model.graph.initializers.values()]
    external = sum(one.nbytes for one in numbers if one is not None) > _LARGEST
    path = folder / "model.onnx"
    written.save(path, external_data=external)
    check_onnx(traced, onnx.load(path, load_external_data=False))
    try:
        onnx.checker.check_model(path, full_check=not external)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        msg = f"`{traced.name}` cannot be exported: its ONNX file is not valid: {error}"
        raise ExportError(msg) from error
    return [path.name, f"{path.name}.data"] if external else [path.name]


def _forget_sources(model: Any) -> None:  # noqa: ANN401
    """Take out what the exporter says of each operation: the file and line it comes from."""
    for part in (model, model.graph, *model.functions.values()):
        part.metadata_props.clear()
        part.doc_string = None
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in (*node.inputs, *node.outputs):
            if value is not None:
                value.metadata_props.clear()
                value.doc_string = None
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None


def check_onnx(traced: Traced, model: Any) -> None:  # noqa: ANN401
    """Check what an exporter may get wrong in silence.

    Args:
        traced: What was exported.
        model: The `onnx.ModelProto`.

    Raises:
        ExportError: If the number of pictures is fixed, if an operator is none of ONNX's own, or
            if something is computed in less than fp32.
    """
    from onnx import TensorProto

    for value in (*model.graph.input, *model.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if not first.dim_param:
            msg = (
                f"`{traced.name}` cannot be exported: the exporter has fixed the number of "
                f"pictures of `{value.name}` at {first.dim_value}, so that the file would take no "
                "other. Something in `forward` makes it a plain number, such as `len(images)`: "
                f"take `images.shape[0]`. {RULES}"
            )
            raise ExportError(msg)
    used = (*model.graph.node, *model.opset_import)
    domains = {one.domain for one in used}
    if model.functions or domains != {""}:
        named = ", ".join(sorted(domains - {""})) or model.functions[0].name
        msg = (
            f"`{traced.name}` cannot be exported: its graph has operators that are not ONNX's own "
            f"({named}), which other engines do not know."
        )
        raise ExportError(msg)
    half = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.value_info, *model.graph.output)
    }
    for node in model.graph.node:
        for name in node.output:
            if node.op_type not in _MOVES and kinds.get(name) in half:
                msg = (
                    f"`{traced.name}` cannot be exported: its graph computes a {node.op_type} in "
                    f"{half[kinds[name]]}, which engines do not know or do otherwise. Leave "
                    f"autocast blocks out of `forward`: in fp32, `in_precision` makes none. {RULES}"
                )
                raise ExportError(msg)


def _write_openvino(folder: Path, onnx_files: list[str]) -> list[str]:
    import openvino

    graph = the_core().read_model(folder / onnx_files[0])
    # By itself it would round all weights to fp16.
    openvino.save_model(graph, folder / "model.xml", compress_to_fp16=False)
    for name in onnx_files:
        (folder / name).unlink()
    return ["model.xml", "model.bin"]


def _write_archive(traced: Traced, folder: Path) -> list[str]:
    program = traced.program
    for node in program.graph.nodes:
        for key in set(node.meta) - {"val", "tensor_meta"}:
            del node.meta[key]
    program.example_inputs = None  # would be a pickle in the archive
    with quiet():
        torch.export.save(program, folder / "model.pt2")
    return ["model.pt2"]


def embed(files: dict[str, Path], text: str) -> None:
    """Put a configuration into a model's own file, so that it works without its folder.

    Args:
        files: As `write_files` gave them.
        text: The configuration.

    Raises:
        SettingError: If the model's numbers have a file of their own.
    """
    if "model.onnx.data" in files:
        msg = (
            f"The model has more than {_LARGEST / 1e9} GB of numbers, which an ONNX file cannot "
            "hold: it cannot be a single file. Leave `--single-file` out."
        )
        raise SettingError(msg)
    if "model.onnx" in files:
        import onnx

        model = onnx.load(files["model.onnx"])
        onnx.helper.set_model_props(model, {KEY: text})
        onnx.save(model, files["model.onnx"])
        return
    import openvino

    path = files["model.xml"]
    graph = the_core().read_model(path)
    graph.set_rt_info(text, list(PATH))
    again = path.with_name("single.xml")
    openvino.save_model(graph, again, compress_to_fp16=False)
    del graph  # it has the file open that is replaced
    for name, file in files.items():
        again.with_suffix(Path(name).suffix).replace(file)
