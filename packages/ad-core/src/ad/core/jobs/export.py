"""Writes a trained detector for other engines, with a threshold that holds there."""

from __future__ import annotations

import os
import shlex
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from ad.core.data.samples import Sample
from ad.core.errors import AdError, ExportError, OutputError, SettingError
from ad.core.exporting.archive import ArchiveEngine
from ad.core.exporting.calibrating import of_the_run
from ad.core.exporting.formats import OPSET, check_installed, embed, write_files
from ad.core.exporting.gate import judged
from ad.core.exporting.parity import Kind, compare, frames_of, spread
from ad.core.exporting.tracing import RULES, trace
from ad.core.jobs.data_now import data_now
from ad.core.jobs.new_pictures import any_pictures, good_pictures, refuse_known
from ad.core.jobs.run_directory import folder_name
from ad.core.predict import LoadedDetector, ModelConfig, load_for_calibration
from ad.core.saved.claims import alone, letting_go, temporary_name
from ad.core.saved.files import read_config, saved_hash
from ad.core.saved.record import calibrations_since, read_run
from ad.core.settings import DEFAULT_FALSE_ALARMS
from ad.runtime.calibration.by_rate import check_false_alarms
from ad.runtime.config import MOST_PICTURES, ExportConfig, Format, Input, Origin
from ad.runtime.engines import open_engine
from ad.runtime.framing import Framing
from ad.runtime.package import Package, embedded, write_package
from ad.runtime.paths import given_path
from ad.runtime.progress import SILENT, Progress
from ad.runtime.recalibrating import set_by_own_scores
from ad.runtime.runtime import Runtime, usable_threads

Precision = Literal["fp32", "fp16", "bf16", "int8"]
"""What may be asked for; `int8` is refused, with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What `export` wrote."""

    output: Path
    """The folder."""
    config: ExportConfig
    """What it says of itself."""
    sha256: Mapping[str, str]
    """Of its files but the manifest."""
    parity: Mapping[str, Any]
    """How far its scores are from those of the detector: the content of ``parity.json``."""
    notes: tuple[str, ...]
    """What a user should know."""

    @property
    def threshold(self) -> float | None:
        """Score above which a picture is called anomalous; None without calibration."""
        return self.config.calibration.threshold if self.config.calibration else None

    def to_json(self) -> dict[str, Any]:
        """As ``ad export --json`` prints it."""
        return {
            "output": str(self.output),
            "threshold": self.threshold,
            "sha256": dict(self.sha256),
            "config": self.config.to_json(),
            "parity": dict(self.parity),
            "notes": list(self.notes),
        }


@letting_go()
def export(
    run: str | Path,
    *,
    format: Format = "onnx",  # noqa: A002 - what users call it
    output: str | Path | None = None,
    input: Literal["uint8", "float"] = "uint8",  # noqa: A002
    precision: Precision = "fp32",
    normals: str | Path | None = None,
    false_alarms: float | None = None,
    check: str | Path | None = None,
    max_batch: int = 64,
    single_file: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> Exported:
    """Write a trained detector as a folder that `ad.runtime` runs without torch.

    The threshold is set anew by the scores of what was written, in the engine that will run it:
    from ``normals``; else from the good pictures that the run held out, if its data are as they
    were; else the run's own is kept, with a warning. Then scores are compared with the detector's.

    Args:
        run: A run directory, or the ``model`` folder of one.
        format: ``onnx``, ``openvino``, or ``pt2`` for programs with torch.
        output: Folder to make; ``export`` in the run directory by default.
        input: What the graph takes: ``uint8`` pictures ``[B, H, W, 3]``, or ``float`` images
            ``[B, 3, H, W]`` in [0, 1], for engines that take no uint8.
        precision: ``fp32``; ``bf16`` or ``fp16`` only with OpenVINO, and only if the verdicts stay.
        normals: Folder of good pictures to set the threshold with.
        false_alarms: Share of good pictures that may be called defective, in (0, 1); by default
            that of the run.
        check: Folder of pictures to compare scores on, in place of those that were held out; in
            the layout ``folder`` it is known which are defective.
        max_batch: The most pictures at once.
        single_file: Whether the model's own file also holds the configuration, and works alone.
        force: Whether to write a lower precision that does not judge as fp32 does all the same.
        progress: Where to show how far it is.

    Raises:
        ExportError: If the detector cannot be exported, or does not score the same there.
        MissingExtraError: If what the format needs is not installed.
        SettingError: If settings cannot be, or do not go together.
        ModelFileError: If the run holds no model, or its training has not ended.
        UnknownNameError: If the model's family is not installed.
        DataError: If a folder holds no pictures, or some that the detector has learnt from.
        OutputError: If the output exists or cannot be written; nothing is left then.
    """
    _check_settings(format, input, precision, max_batch, single_file=single_file)
    check_installed(format)
    detector, folder = load_for_calibration(run, device="cpu", precision="fp32")
    saved = ModelConfig.from_json(read_config(folder), folder)
    if single_file and saved.framing.region is not None:
        embedded(_config(detector, saved, folder, format, Input()))  # which refuses it
    home = folder.parent if (folder.parent / "run.json").is_file() else None
    target = _target(output, home, folder)
    good, rate, kept = _good(home, saved, normals, false_alarms, progress)
    checked, labelled = list[Sample](), False
    if check is not None:
        checked, labelled = any_pictures(given_path(check, "the pictures to compare on"))
    if precision != "fp32" and not checked and not good:
        msg = (
            f"`--precision {precision}` is written only if it judges as fp32 does, and there are "
            "no pictures to tell by. Give some: --check DIR (`check=` in Python)."
        )
        raise SettingError(msg)
    wanted = Input(dtype="uint8" if input == "uint8" else "float32", max_batch=max_batch)
    prepared = detector.detector.prepare_export()
    with _scratch(target) as part:
        with progress.step("exporting", total=2, unit="steps") as advance:
            traced = trace(detector.detector, saved.model, saved.framing.size, wanted)
            advance(1)
            files = write_files(traced, format, part)
            advance(1)
        config = _config(detector, saved, folder, format, traced.input)
        config = replace(config, files=tuple(files))
        notes = [] if kept is None else [kept]
        runtime, told = _calibrated(config, part, good, rate, progress)
        notes += told
        if precision != "fp32":
            low, _ = _calibrated(replace(config, precision=precision), part, good, rate, progress)
            gate = judged(
                runtime,
                low,
                spread(checked or good),
                labelled=labelled,
                progress=progress,
            )
            _check_gate(gate, saved.model, precision, force=force)
            runtime = low
        kind: Kind = "noise"
        if checked or good:
            kind = "check" if checked else "held-out" if normals is None else "normals"
        if single_file:
            embed(files, embedded(runtime.config))
            runtime = _at_work(runtime.config, part)
        frames = frames_of(runtime, [sample.path for sample in checked or good])
        parity = compare(detector, runtime, frames, kind)
        if precision != "fp32":  # which moves scores; whether it may is for the gate to tell
            parity |= {"gate": gate, "passed": gate["passed"], "why": gate["why"]}
        elif not parity["passed"]:
            raise ExportError(_differs(parity, saved.model, format))
        if kind == "noise":
            notes.append(
                "There were no pictures to compare scores on: they were compared on noise. Give "
                "some: --check DIR."
            )
        notes += prepared
        config = runtime.config
        del runtime  # it has the files open that are moved
        package = write_package(target, files, config, parity=parity)
    return Exported(
        output=target, config=config, sha256=package.sha256, parity=parity, notes=tuple(notes)
    )


def _check_settings(
    format_: str, input_: str, precision: str, max_batch: int, *, single_file: bool
) -> None:
    for name, value, allowed in (
        ("format", format_, get_args(Format)),
        ("input", input_, ("uint8", "float")),
        ("precision", precision, get_args(Precision)),
    ):
        if value not in allowed:
            msg = f"`{name}` must be one of {', '.join(allowed)}; got {value!r}."
            raise SettingError(msg)
    if type(max_batch) is not int or not 1 <= max_batch <= MOST_PICTURES:
        msg = f"`max_batch` must be a whole number from 1 to {MOST_PICTURES}; got {max_batch!r}."
        raise SettingError(msg)
    if precision == "int8":
        msg = (
            "`--precision int8` is not offered: quantising whole graphs made detectors worthless "
            "(FRE's image AUROC fell from 0.986 to 0.525). There are fp32 in every format, and "
            "bf16 and fp16 with `--format openvino`."
        )
        raise SettingError(msg)
    if precision != "fp32" and format_ != "openvino":
        msg = (
            f"`--precision {precision}` is for `--format openvino`, which is asked to compute in "
            f"it; `--format {format_}` is written in fp32."
        )
        raise SettingError(msg)
    if single_file and format_ == "pt2":
        msg = (
            "`--single-file` is for `onnx` and `openvino`: no program looks for a configuration "
            "inside a `pt2` archive. Leave it out."
        )
        raise SettingError(msg)


def _target(output: str | Path | None, home: Path | None, folder: Path) -> Path:
    """The folder to make, which must not be there yet."""
    if output is not None:
        target = given_path(output, "the output")
    elif home is not None:
        target = home / "export"
    else:
        target = folder.absolute().with_name(f"{folder.absolute().name}-export")
    if os.path.lexists(target):
        msg = (
            f"`{target}` exists already; an export is never overwritten. Name another folder, "
            f"--output DIR (`output=` in Python), or remove it first: rm -r "
            f"{shlex.quote(str(target))}"
        )
        raise OutputError(msg)
    return target


def _good(
    home: Path | None,
    saved: ModelConfig,
    normals: str | Path | None,
    false_alarms: float | None,
    progress: Progress,
) -> tuple[Sequence[Sample], float, str | None]:
    """Good pictures to set the threshold with, the share of false alarms, and what to be told.

    There is a warning if the run's own threshold is kept.
    """
    own = saved.calibration
    rate = false_alarms
    if rate is None:
        rate = DEFAULT_FALSE_ALARMS if own is None or own.rate is None else own.rate
    check_false_alarms(rate)
    if normals is not None:
        given = good_pictures(given_path(normals, "the good pictures"))
        return given, rate, refuse_known(home, given, progress)
    good, why = _held_out(home, saved, progress)
    if good:
        return good, rate, None
    again = (
        "Give good pictures, --normals DIR (`normals=` in Python), to have one that holds there."
    )
    if false_alarms is not None:
        msg = (
            f"`false_alarms` {false_alarms} is for a threshold that is set anew, and there are no "
            f"pictures to set it with: {why} {again}"
        )
        raise SettingError(msg)
    if own is None:
        return [], rate, f"There is no threshold, and so no verdict: {why} {again}"
    warnings.warn(
        f"The threshold is the run's own, {own.threshold:.4g}, which was found by torch in "
        f"{saved.precision}: {why} Scores differ a little in another engine, so that pictures near "
        f"the threshold may get another verdict. {again}",
        stacklevel=3,
    )
    return [], rate, f"The threshold is the run's own: {why}"


def _held_out(
    home: Path | None, saved: ModelConfig, progress: Progress
) -> tuple[Sequence[Sample], str]:
    """The pictures that set a run's threshold, or why there are none."""
    if home is None:
        return [], "there is no run directory around the model that says what was held out."
    if saved.calibration is not None and (anew := calibrations_since(home)):
        pictures = anew[-1].get("pictures")
        how = "by hand" if pictures is None else f"from `{pictures}`"
        return [], f"it was set {how} by `ad calibrate`, and not from held-out pictures."
    now = data_now(home, progress)
    if now is None:
        return [], "the run's data are not where they were."
    if now.held_out_changed:
        return [], "the run's data have changed, and others may be held out."
    if now.cross_fitted:
        return [], "it was cross-fitted from the pictures that were learnt from."
    return now.held_out, "nothing was held out when it was trained (`--holdout 0`)."


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A folder beside the target, which is gone at the end."""
    part = temporary_name(target)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        msg = f"The output folder `{target}` cannot be made ({error.strerror})."
        raise OutputError(msg) from error
    try:
        with alone(part):
            yield part
    except OSError as error:
        if isinstance(error, AdError):
            raise
        msg = f"The export cannot be written to `{target}` ({error.strerror or error})."
        raise OutputError(msg) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _config(
    detector: LoadedDetector, saved: ModelConfig, folder: Path, format_: Format, input_: Input
) -> ExportConfig:
    """What the export says of itself, with the run's threshold."""
    home = folder.parent if (folder.parent / "run.json").is_file() else None
    record = {} if home is None else read_run(home)
    versions = dict(record.get("versions") or {})
    exporters = {"onnx": ("onnx", "onnxscript"), "openvino": ("onnx", "onnxscript", "openvino")}
    for package in ("ad-core", "torch", *exporters.get(format_, ())):
        versions[package if package not in versions else f"{package} (export)"] = version(package)
    framing = saved.framing
    return ExportConfig(
        name=folder_name((home or folder).absolute().name).strip(".-") or saved.model,
        model=saved.model,
        options=_without_paths(saved.options),
        engine=format_,
        files=(),
        opset=None if format_ == "pt2" else OPSET,
        input=input_,
        framing=Framing.from_json(framing.to_json(), framing.region),
        white_level=saved.white_level,
        localises=detector.detector.localises,
        categories=saved.categories,
        calibration=saved.calibration,
        calibrations={},
        calibrated_on=of_the_run(saved, str(record.get("versions", {}).get("torch", "unknown"))),
        origin=Origin(
            versions={name: str(text) for name, text in versions.items()},
            seed=record.get("settings", {}).get("seed"),
            fingerprint=record.get("data", {}).get("sha256"),
            sha256=saved_hash(folder),
            licence=_licence(detector, record.get("settings", {}).get("weights")),
        ),
    )


def _licence(detector: LoadedDetector, weights: str | None) -> str | None:
    """Of the weights that were found by a backbone's name; those of a given file are not known."""
    if weights != "auto":
        return None
    from ad.core.networks.backbones import licences

    found = [f"{text} ({name})" for name, text in licences(detector.detector).items() if text]
    return ", ".join(found) or None


def _without_paths(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options for the record: of a path its last name, as the rest may tell who trained where."""

    def told(value: Any) -> Any:  # noqa: ANN401
        if not isinstance(value, str):
            return value
        path = Path(value).expanduser()
        return path.name if path.is_absolute() or path.exists() else value

    return {name: told(value) for name, value in options.items()}


def _calibrated(
    config: ExportConfig, part: Path, good: Sequence[Sample], rate: float, progress: Progress
) -> tuple[Runtime, list[str]]:
    """The written files at work, with the threshold of their own scores if there are pictures."""
    runtime = _at_work(config, part)
    if not good:
        return runtime, []
    calibrated, notes = set_by_own_scores(runtime, good, rate, progress=progress)
    return Runtime(replace(runtime.package, config=calibrated), runtime.engine), notes


def _at_work(config: ExportConfig, part: Path) -> Runtime:
    package = Package(path=part, config=config, sha256={}, parity=None)
    if config.engine == "pt2":
        return Runtime(package, ArchiveEngine(package.model, config))
    return Runtime(package, open_engine(package.model, config, threads=usable_threads()))


def _check_gate(gate: Mapping[str, Any], model: str, precision: str, *, force: bool) -> None:
    if gate["passed"] or force:
        return
    msg = (
        f"`{model}` does not judge in {precision} as it does in fp32: {'; '.join(gate['why'])} "
        f"({gate['pictures']} pictures). Nothing was written. Leave `--precision` out, or write "
        "it all the same: --force (`force=True`)."
    )
    raise ExportError(msg)


def _differs(parity: Mapping[str, Any], model: str, format_: str) -> str:
    return (
        f"`{model}` does not score in `{format_}` as it does in torch, compared on "
        f"{parity['pictures']} pictures ({parity['kind']}): {'; '.join(parity['why'])}. Nothing "
        f"was written. Something in its `forward` is computed otherwise there. {RULES}"
    )
