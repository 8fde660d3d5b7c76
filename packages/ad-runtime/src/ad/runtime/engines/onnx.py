"""onnxruntime: runs ONNX files, on any CPU and on NVIDIA's GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from numpy.typing import NDArray

from ad.runtime.config import ExportConfig
from ad.runtime.engines.base import Engine, Port, number_of
from ad.runtime.errors import MissingExtraError, SettingError, how_to_install

# Some ARM processors would otherwise multiply matrices in bf16 if a later version says so.
_ENTRIES = {"mlas.enable_gemm_fastmath_arm64_bfloat16": "0"}
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_ERRORS_ALONE = 3


@final
class OnnxEngine(Engine):
    """See `Engine`; fp32 throughout, without TF32."""

    name = "onnxruntime"

    def __init__(self, model: Path, config: ExportConfig, *, device: str, threads: int) -> None:
        super().__init__(model, config, device=device, threads=threads)
        try:
            import onnxruntime
        except ImportError as error:
            msg = (
                f"`{model}` is run by onnxruntime, which is not installed: "
                f"{how_to_install('ad-runtime', 'onnx')}"
            )
            raise MissingExtraError(msg) from error
        self.version = onnxruntime.__version__
        number = number_of(device, "cuda", self.name)
        providers: list[Any] = [_CPU]
        if number is not None:
            if _CUDA not in (there := onnxruntime.get_available_providers()):
                msg = (
                    f"This onnxruntime has no `{_CUDA}` for the device `{device}`, but "
                    f"{', '.join(there)}. Install onnxruntime-gpu in its place, or take `cpu`."
                )
                raise SettingError(msg)
            providers = [(_CUDA, {"device_id": str(number), "use_tf32": "0"}), _CPU]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ALONE
        for key, value in _ENTRIES.items():
            options.add_session_config_entry(key, value)
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=providers)
        except Exception as error:  # each of its reasons has a class of its own
            raise self._unopened(error) from error
        wanted = [one if isinstance(one, str) else one[0] for one in providers]
        if (got := self._session.get_providers()) != wanted:
            msg = (
                f"onnxruntime runs `{model}` by {', '.join(got)} where {', '.join(wanted)} were "
                f"asked for: `{device}` does not work here. Its log above says why; or take `cpu`."
            )
            raise SettingError(msg)
        self._check_ports(
            [_port(one) for one in self._session.get_inputs()],
            [_port(one) for one in self._session.get_outputs()],
        )

    def settings(self) -> dict[str, Any]:
        """See `Engine.settings`."""
        options = self._session.get_session_options()
        return {
            "providers": self._session.get_providers(),
            "provider_options": self._session.get_provider_options(),
            "intra_op_num_threads": options.intra_op_num_threads,
            "inter_op_num_threads": options.inter_op_num_threads,
            **{key: options.get_session_config_entry(key) for key in _ENTRIES},
        }

    def _infer(self, batch: NDArray[Any]) -> Sequence[NDArray[Any]]:
        found: Sequence[NDArray[Any]] = self._session.run(
            list(self._outputs), {self.config.input.name: batch}
        )
        return found


def _port(one: Any) -> Port:  # noqa: ANN401
    sides = tuple(side if isinstance(side, int) else None for side in one.shape)
    kind = one.type.removeprefix("tensor(").removesuffix(")")
    return Port(one.name, "float32" if kind == "float" else kind, sides)
