"""Exported models as tiny as can be: a picture's map is its brightness, its score the brightest."""

import numpy as np
from onnx import TensorProto, helper, save

from ad.runtime.calibration import Calibration
from ad.runtime.conditions import Conditions
from ad.runtime.config import FILES, ExportConfig, Input, Origin
from ad.runtime.engines.openvino import the_core
from ad.runtime.framing import Framing, Size
from ad.runtime.package import write_package

FLOAT, UINT8, INT64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64


def brightness(pictures):
    """What the graph gives for uint8 ``[B, h, w, 3]``: scores ``[B]`` and maps ``[B, h, w]``."""
    maps = (np.asarray(pictures, dtype=np.float64) / 255).mean(axis=3)
    return maps.max(axis=(1, 2)), maps


def calibration(threshold=0.5, scale=0.1):
    """By hand: it promises nothing, and so needs no pictures."""
    return Calibration(
        threshold=threshold,
        scale=scale,
        pixel_threshold=threshold,
        pixel_scale=scale,
        rate=None,
        promised_rate=None,
        num_images=0,
    )


def graph_model(nodes, inputs, outputs, constants=()):
    """A model of nodes; inputs and outputs are ``(name, type, shape)``."""
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    return model


def constant(name, kind, values):
    """A constant of a graph, ``values`` of any shape."""
    values = np.asarray(values)
    return helper.make_tensor(name, kind, values.shape, values.ravel().tolist())


def bright_model(size=(32, 32), *, localises=True, dtype="uint8"):
    """The graph of `brightness`."""
    height, width = size
    if dtype == "uint8":
        given = [("pictures", UINT8, ["batch", height, width, 3])]
        nodes = [
            helper.make_node("Cast", ["pictures"], ["levels"], to=FLOAT),
            helper.make_node("Div", ["levels", "white"], ["scaled"]),
        ]
        channel = 3
    else:
        given = [("images", FLOAT, ["batch", 3, height, width])]
        nodes = [helper.make_node("Identity", ["images"], ["scaled"])]
        channel = 1
    nodes += [
        helper.make_node("ReduceMean", ["scaled", "channels"], ["map"], keepdims=0),
        helper.make_node("ReduceMax", ["map", "pixels"], ["score"], keepdims=0),
    ]
    outputs = [("score", FLOAT, ["batch"]), ("map", FLOAT, ["batch", height, width])]
    constants = [
        constant("white", FLOAT, 255.0),
        constant("channels", INT64, [channel]),
        constant("pixels", INT64, [1, 2]),
    ]
    if dtype != "uint8":
        del constants[0]
    return graph_model(nodes, given, outputs if localises else outputs[:1], constants)


def make_config(*, size=(32, 32), engine="onnx", **changes):
    """What goes with `bright_model`; ``changes`` are fields of `ExportConfig`."""
    fields = {
        "name": "bright",
        "model": "bright",
        "options": {},
        "engine": engine,
        "files": FILES[engine][0],
        "opset": 18 if engine == "onnx" else None,
        "input": Input(max_batch=8),
        "framing": Framing(size=Size(*size)),
        "white_level": None,
        "localises": True,
        "categories": ("toy",),
        "calibration": calibration(),
        "calibrations": {},
        "calibrated_on": None,
        "origin": Origin(
            versions={"ad-core": "0"}, seed=0, fingerprint=None, sha256=None, licence=None
        ),
    }
    return ExportConfig(**{**fields, **changes})


def here(**changes):
    """Conditions of onnxruntime in this process with one thread."""
    import onnxruntime

    fields = {
        "engine": "onnxruntime",
        "version": onnxruntime.__version__,
        "device": "cpu",
        "threads": 1,
        "precision": "fp32",
    }
    return Conditions(**{**fields, **changes})


def make_export(folder, *, model=None, parity=None, **changes):
    """Write an exported model; see `make_config`.

    Args:
        folder: To write; must not exist.
        model: An ONNX model in place of `bright_model`.
        parity: Content of ``parity.json``.
        changes: As of `make_config`; ``engine="openvino"`` converts the model.
    """
    config = make_config(**changes)
    if model is None:
        model = bright_model(
            config.framing.size, localises=config.localises, dtype=config.input.dtype
        )
    if config.engine == "onnx":
        return write_package(
            folder, {"model.onnx": model.SerializeToString()}, config, parity=parity
        )
    import openvino

    part = folder.with_name(f"{folder.name}-part")
    part.mkdir()
    save(model, part / "model.onnx")
    openvino.save_model(
        the_core().read_model(part / "model.onnx"), part / "model.xml", compress_to_fp16=False
    )
    files = {name: part / name for name in config.files}
    return write_package(folder, files, config, parity=parity)
