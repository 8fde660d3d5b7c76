"""What computes: pictures in, raw scores and maps out. Each engine is an extra of its own."""

from __future__ import annotations

from pathlib import Path

from ad.runtime.config import ExportConfig
from ad.runtime.engines.base import Engine
from ad.runtime.errors import ModelFileError, SettingError

ENGINES = ("auto", "onnxruntime", "openvino")
"""What may be asked for; ``auto`` is the one that the model was made for."""

_MADE_FOR = {"onnx": "onnxruntime", "openvino": "openvino"}


def open_engine(
    model: Path, config: ExportConfig, *, engine: str = "auto", device: str = "cpu", threads: int
) -> Engine:
    """Open a model's graph in an engine.

    Args:
        model: The graph's file.
        config: What it must be.
        engine: One of `ENGINES`; ``openvino`` runs ONNX files too.
        device: ``cpu``, ``cuda[:N]`` (onnxruntime) or ``gpu[:N]`` (OpenVINO).
        threads: Of the CPU, for one batch.

    Raises:
        MissingExtraError: If the engine is not installed.
        ModelFileError: If it cannot open the graph, or the graph is not what the configuration
            says.
        SettingError: If there is no such engine or device, or it cannot run such a file.
    """
    if engine not in ENGINES:
        msg = f"`engine` must be one of {', '.join(ENGINES)}; got {engine!r}."
        raise SettingError(msg)
    if config.engine not in _MADE_FOR:
        msg = (
            f"`{model}` is of format `{config.engine}`, which is for programs with torch "
            "(`torch.export.load`): reading it lets torch evaluate what is in it, so load none "
            "that you do not trust. To predict with it here, export with `--format onnx`."
        )
        raise ModelFileError(msg)
    name = _MADE_FOR[config.engine] if engine == "auto" else engine
    if name == "openvino":
        from ad.runtime.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(model, config, device=device, threads=threads)
    if config.engine != "onnx":
        msg = (
            f"`{model}` is an OpenVINO file, which onnxruntime cannot run. Leave `engine` out, or "
            "export with `--format onnx`, which both engines run."
        )
        raise SettingError(msg)
    from ad.runtime.engines.onnx import OnnxEngine

    return OnnxEngine(model, config, device=device, threads=threads)
