"""Answers of the Open Inference Protocol v2: what a model takes and gives, and what it found.

See `ad.runtime.serve.protocol` for how a message is built.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ad.runtime.calibration import Calibration
from ad.runtime.findings import Finding
from ad.runtime.runtime import Runtime
from ad.runtime.serve.limits import Refused

_PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "openvino": "openvino"}
LARGE: Final = ("map", "mask")
"""Outputs that are given only when they are asked for."""

_DATATYPES: Mapping[str, tuple[str, str]] = {
    "score": ("FP32", "<f4"),
    "normalized": ("FP32", "<f4"),
    "anomalous": ("BOOL", "?"),
    "map": ("FP32", "<f4"),
    "mask": ("UINT8", "u1"),
}


def metadata(name: str, versions: Sequence[str], runtime: Runtime) -> dict[str, Any]:
    """What a model takes and gives.

    Args:
        name: Of the model.
        versions: That are served.
        runtime: One of them.
    """
    height, width = runtime.config.framing.size
    inputs = [{"name": "file", "datatype": "BYTES", "shape": [-1]}]
    if takes_pictures(runtime):
        shape = [-1, height, width, 3]
        inputs.insert(0, {"name": "pictures", "datatype": "UINT8", "shape": shape})
    of_map = [-1, height, width] if takes_pictures(runtime) else [-1, -1, -1]
    return {
        "name": name,
        "versions": list(versions),
        "platform": _PLATFORMS.get(runtime.engine.name, runtime.engine.name),
        "inputs": inputs,
        "outputs": [
            {
                "name": output,
                "datatype": _DATATYPES[output][0],
                "shape": of_map if output in LARGE else [-1],
            }
            for output in outputs_of(runtime)
        ],
    }


def takes_pictures(runtime: Runtime) -> bool:
    """Whether pictures may come at the model's size: not if it sees tiles of them."""
    return runtime.config.framing.tiling is None


def outputs_of(runtime: Runtime) -> list[str]:
    """Names of all that a model can answer."""
    calibration = runtime.config.calibration
    names = ["score"]
    if calibration is not None:
        names += ["normalized", "anomalous"]
    if runtime.localises:
        names.append("map")
        if calibration is not None and calibration.pixel_threshold is not None:
            names.append("mask")
    return names


def encode_answer(
    model: Mapping[str, str],
    findings: Sequence[Finding],
    outputs: Mapping[str, bool],
    made_by: Calibration | None,
) -> tuple[bytes, bytes]:
    """Write the answer to a request.

    Args:
        model: Who answers: ``model_name``, ``model_version`` and ``id``, if there is one.
        findings: One for each picture.
        outputs: Names of those asked for, and whether each is binary.
        made_by: What the verdicts were made by.

    Returns:
        Its JSON, the tensors behind it (nothing if none is binary).

    Raises:
        Refused: If maps were asked for that have several sizes.
    """
    told, binaries = [], []
    for name, binary in outputs.items():
        values = _values(name, findings, made_by)
        output: dict[str, Any] = {
            "name": name,
            "datatype": _DATATYPES[name][0],
            "shape": list(values.shape),
        }
        if binary:
            binaries.append(values.tobytes())
            output["parameters"] = {"binary_data_size": len(binaries[-1])}
        else:
            output["data"] = _jsonable(values)
        told.append(output)
    return to_json({**model, "outputs": told}), b"".join(binaries)


def to_json(values: object) -> bytes:
    """The text of JSON values, in ASCII."""
    return json.dumps(values, allow_nan=False).encode()


def _values(name: str, findings: Sequence[Finding], made_by: Calibration | None) -> NDArray[Any]:
    kind = np.dtype(_DATATYPES[name][1])
    if name not in LARGE:
        return np.array([getattr(finding, name) for finding in findings], dtype=kind)
    maps = [finding.map for finding in findings if finding.map is not None]
    if len({map_.shape for map_ in maps}) != 1:
        msg = (
            f"The pictures are of several sizes, and so are their maps, which one `{name}` cannot "
            "hold: send one picture at a time."
        )
        raise Refused(400, msg)
    stacked = np.stack(maps)
    if name == "map":
        return stacked.astype(kind, copy=False)
    assert made_by is not None
    assert made_by.pixel_threshold is not None
    return (stacked > made_by.pixel_threshold).astype(kind)


def _jsonable(values: NDArray[Any]) -> list[Any]:
    flat: list[Any] = values.ravel().tolist()
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        # Outside the region of interest a map is no number, for which JSON has null.
        return [number if math.isfinite(number) else None for number in flat]
    return flat
