"""OpenVINO: runs its own files and ONNX files, on CPUs and Intel's GPUs.

By itself it computes in bf16 on processors that can, which moves scores by up to two scales and
makes an auto-encoder's worthless: each setting is asked for.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ad.runtime.config import ExportConfig
from ad.runtime.engines.base import Engine, Port, number_of
from ad.runtime.errors import MissingExtraError, SettingError, how_to_install

_LOCK = threading.Lock()
_KINDS = {"u8": "uint8", "f32": "float32"}
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}


@final
class OpenVinoEngine(Engine):
    """See `Engine`; in the precision that the model was exported for."""

    name = "openvino"

    def __init__(self, model: Path, config: ExportConfig, *, device: str, threads: int) -> None:
        super().__init__(model, config, device=device, threads=threads)
        try:
            import openvino
        except ImportError as error:
            msg = (
                f"`{model}` is to be run by OpenVINO, which is not installed: "
                f"{how_to_install('ad-runtime', 'openvino')}"
            )
            raise MissingExtraError(msg) from error
        self.version = openvino.__version__.partition("-")[0]
        number = number_of(device, "gpu", self.name)
        target = "CPU" if number is None else f"GPU.{number}"
        core = the_core()
        there = core.available_devices
        if target not in there and target.removesuffix(".0") not in there:
            msg = f"OpenVINO has no device `{target}` here, but {', '.join(there)}."
            raise SettingError(msg)
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[config.precision],
            "EXECUTION_MODE_HINT": "ACCURACY",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if number is None:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        self._keys = tuple(settings)
        try:
            graph = core.read_model(model)
            ports = [
                [_port(one, wanted) for one in ends]
                for ends, wanted in (
                    (graph.inputs, (config.input.name,)),
                    (graph.outputs, self._outputs),
                )
            ]
        except Exception as error:  # it raises RuntimeError, whatever the reason
            raise self._unopened(error) from error
        self._check_ports(*ports)
        try:
            self._compiled = core.compile_model(graph, target, settings)
        except Exception as error:
            raise self._unopened(error) from error
        # A device that cannot computes in what it likes, without a word.
        got = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if got != (wanted := _HINTS[config.precision]):
            msg = (
                f"`{model}` is of precision {config.precision}, and OpenVINO computes in {got} "
                f"on this `{target}`, which does not do {wanted}. Export in fp32, which all do."
            )
            raise SettingError(msg)
        self._targets = self._compiled.get_property("EXECUTION_DEVICES")
        self._free: deque[Any] = deque()  # whose `pop` and `append` are safe in threads

    def settings(self) -> dict[str, Any]:
        """See `Engine.settings`."""
        found = {key: self._compiled.get_property(key) for key in self._keys}
        hint, mode = found["INFERENCE_PRECISION_HINT"], found["EXECUTION_MODE_HINT"]
        return {
            "EXECUTION_DEVICES": self._targets,
            **found,
            "INFERENCE_PRECISION_HINT": hint.get_type_name(),
            "EXECUTION_MODE_HINT": mode.name,
        }

    def _infer(self, batch: NDArray[Any]) -> Sequence[NDArray[Any]]:
        # A request holds its results and serves one thread; there are as many as work at once.
        try:
            request = self._free.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        request.infer({self.config.input.name: batch})
        found = [np.array(request.get_tensor(name).data) for name in self._outputs]
        self._free.append(request)
        return found


def the_core() -> Any:  # noqa: ANN401 - `openvino.Core`
    """The one core of this process, which stays until it ends.

    A core gives the thread a stack for signals, and another one on going puts back that of before:
    where two go in the order in which they came, signals are left without a stack, and the next
    one ends the process (OpenVINO 2026.4). A server that exchanges models would do that.
    """
    with _LOCK:  # or two threads that come first would make two
        return _core()


@functools.cache
def _core() -> Any:  # noqa: ANN401
    import openvino

    return openvino.Core()


def _port(one: Any, wanted: Sequence[str]) -> Port:  # noqa: ANN401
    partial = one.get_partial_shape()
    shape = None
    if partial.rank.is_static:
        shape = tuple(side.get_length() if side.is_static else None for side in partial)
    # What was an operation without effect leaves its own name beside the graph's.
    names = [name for name in wanted if name in one.get_names()] or sorted(one.get_names())
    kind = one.get_element_type().get_type_name()
    return Port(names[0] if names else "", _KINDS.get(kind, kind), shape)
