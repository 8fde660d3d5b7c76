"""A saved detector at work: pictures in, scores, verdicts and heat maps out."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray

from ad.core.data.batches import PictureSet, Source, to_device
from ad.core.data.levels import WHITE_LEVELS
from ad.core.data.masks import tell_apart
from ad.core.data.pictures import rgb_array
from ad.core.data.walking import NO_FILE, OURS, SUFFIXES, everything_below
from ad.core.detector import Detector
from ad.core.devices import resolve_device, resolve_precision
from ad.core.errors import DataError, ModelFileError, SettingError
from ad.core.framing import Framing
from ad.core.progress import SILENT, Progress
from ad.core.registry import ModelRegistry, load_trainer
from ad.core.saved.allocation import built_within
from ad.core.saved.files import read_model
from ad.core.saved.loading import load_tensors
from ad.core.saved.paths import given_path
from ad.core.settings import resolve_options
from ad.core.thresholds.calibrate import Calibration
from ad.core.trainer import FROM_MODEL_FILE, Precision, Setup

Inputs = str | Path | NDArray[Any] | Sequence[str | Path | NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found in one picture."""

    path: Path | None
    """The picture's file; None for an array."""
    score: float | None
    """Raw anomaly score, higher is worse; None if the picture could not be read."""
    normalized: float | None = None
    """Score from 0 to 1 with 0.5 at the threshold; None without calibration."""
    anomalous: bool | None = None
    """The verdict; None without calibration."""
    map: NDArray[np.float32] | None = None
    """``[H, W]``: score per pixel at the detector's input size; None if it cannot localise."""
    outline: NDArray[np.float32] | None = None
    """As ``map``: above 0 where a test of the detector's own finds something; None where it has
    none or was not asked."""
    error: str | None = None
    """Why the picture could not be read, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Where scores were computed: what can shift them beside the precision."""

    device: str
    """Kind of device: ``cpu``, ``cuda``."""
    threads: int
    """Threads of the CPU; they change the last digits of a score."""

    @classmethod
    def of(cls, device: torch.device) -> Conditions:
        """Those of this process."""
        return cls(device=device.type, threads=torch.get_num_threads())


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What a saved model says about itself: ``config.json``."""

    model: str
    """Registry name."""
    options: dict[str, Any]
    """The model's options, all of them."""
    framing: Framing
    """How a picture becomes what it sees."""
    normalize: bool
    """Whether ImageNet normalisation happens inside."""
    precision: Precision
    """Precision of frozen networks; the threshold holds in this one."""
    categories: tuple[str, ...]
    """What it was trained on."""
    calibration: Calibration | None
    """Threshold and scale; None if nothing was held out."""
    calibrated_on: Conditions | None
    """Where they were found; None without them, or if it is not known."""
    white_level: int | None = None
    """The value that is white in pictures of more than 8 bits; None if it has learnt from none."""

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json`` but for the schema's number."""
        return {
            "model": self.model,
            "options": self.options,
            **self.framing.to_json(),
            "normalize": self.normalize,
            "precision": self.precision,
            "categories": list(self.categories),
            "calibration": self.calibration.to_json() if self.calibration else None,
            "calibrated_on": asdict(self.calibrated_on) if self.calibrated_on else None,
            "white_level": self.white_level,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> ModelConfig:
        """Read ``config.json``; every key must be known, there and of its kind.

        Raises:
            ModelFileError: If one is not.
        """
        kinds: dict[str, type | tuple[type, ...]] = {
            "model": str,
            "options": dict,
            "img_size": (int, list),
            "fit": str,
            "normalize": bool,
            "precision": str,
            "categories": list,
            "calibration": (dict, type(None)),
            "calibrated_on": (dict, type(None)),
            "white_level": (int, type(None)),
        }
        # What was not recorded at first.
        values = {"fit": "stretch", "calibrated_on": None, "white_level": None, **values}
        wrong = set(values) ^ set(kinds) or {
            key
            for key, kind in kinds.items()
            if not isinstance(values[key], kind) or isinstance(values[key], bool) != (kind is bool)
        }
        if not wrong:
            wrong = Framing.wrong_in(values)
        if not wrong and values["white_level"] not in (None, *WHITE_LEVELS):
            wrong = {"white_level"}
        if not wrong and not all(isinstance(name, str) for name in values["categories"]):
            wrong = {"categories"}
        where = None if wrong else values["calibrated_on"]
        if where is not None and (
            set(where) != {"device", "threads"}
            or not isinstance(where["device"], str)
            or type(where["threads"]) is not int
        ):
            wrong = {"calibrated_on"}
        if wrong or values["precision"] not in ("fp32", "bf16"):
            name = min(wrong, default="precision")
            msg = (
                f"The configuration of `{folder}` has a missing, unknown or malformed entry "
                f"`{name}`: it was written by another version."
            )
            raise ModelFileError(msg)
        calibration = values["calibration"]
        framing = Framing.from_json(values)
        rest = {key: value for key, value in values.items() if key not in framing.to_json()}
        return cls(
            framing=framing,
            **{
                **rest,
                "categories": tuple(values["categories"]),
                "calibration": (
                    None if calibration is None else Calibration.from_json(calibration)
                ),
                "calibrated_on": None if where is None else Conditions(**where),
            },
        )


@final
class LoadedDetector:
    """A fitted detector with its threshold, ready for pictures of any size.

    Attributes:
        detector: The `torch.nn.Module` itself: ``[B, 3, H, W]`` in [0, 1] to scores and maps.
        config: What it is.
    """

    def __init__(self, detector: Detector, config: ModelConfig, device: torch.device) -> None:
        self.detector = detector.to(device).eval().requires_grad_(False)
        self.config = config
        self.device = device

    @property
    def threshold(self) -> float | None:
        """Score above which a picture is called anomalous; None without calibration."""
        return self.config.calibration.threshold if self.config.calibration else None

    def predict(
        self,
        inputs: Inputs,
        *,
        batch_size: int = 8,
        outlines: bool = False,
        progress: Progress = SILENT,
    ) -> list[Finding]:
        """Score pictures.

        Args:
            inputs: A picture's path, a folder (searched with its sub-folders), an array as
                `ad.core.data.pictures.rgb_array` takes it, ``[N, H, W, 3]`` for several, or a
                sequence of such.
            batch_size: Pictures scored at once; does not change the results.
            outlines: Whether to ask for the detector's own outline, too, which takes its time.
            progress: Where to show how far it is.

        Returns:
            One finding per picture, in the order given; folders in the order of their paths. A
            picture that cannot be read has its ``error`` set.

        Raises:
            DataError: If there is no picture, or a path does not exist.
        """
        return list(
            self.stream(inputs, batch_size=batch_size, outlines=outlines, progress=progress)
        )

    def stream(
        self,
        inputs: Inputs,
        *,
        batch_size: int = 8,
        outlines: bool = False,
        progress: Progress = SILENT,
    ) -> Iterator[Finding]:
        """Like `predict`, one finding at a time: for more pictures than fit into memory."""
        if batch_size < 1:
            msg = f"`batch_size` must be a whole number from 1; got {batch_size}."
            raise SettingError(msg)
        sources = find_sources(inputs, white=self.config.white_level)
        pictures = self.pictures(sources)
        with progress.step("predicting", total=len(sources), unit="pictures") as advance:
            for batch in pictures.batches(batch_size, on_error="record"):
                scores, maps = self.score(batch.pictures)
                outlined = self.outline(batch.pictures) if outlines else None
                found: dict[int, Finding] = {}
                for row, index in enumerate(batch.indices):
                    one = None if maps is None else maps[row]
                    finding = self._finding(sources[index], float(scores[row]), one)
                    if outlined is not None:
                        finding = replace(finding, outline=outlined[row])
                    found[index] = finding
                for index, error in batch.errors:
                    found[index] = Finding(path=_path(sources[index]), score=None, error=str(error))
                for index in sorted(found):
                    yield found[index]
                advance(len(found))

    def pictures(self, sources: Sequence[Source]) -> PictureSet:
        """Pictures as this detector sees them: at its size, by its white level."""
        return self.config.framing.pictures(sources, white=self.config.white_level)

    def score(
        self, pictures: torch.Tensor
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Score one batch of decoded pictures.

        Args:
            pictures: ``[B, H, W, 3]``, uint8, at the detector's size; ``B`` may be 0.

        Returns:
            Scores ``[B]`` and maps ``[B, H, W]``, or None for maps if it cannot localise.
        """
        if len(pictures) == 0:
            empty = np.zeros((0, *self.config.framing.size), dtype=np.float32)
            return empty[:, 0, 0], empty if self.detector.localises else None
        with torch.inference_mode():
            prediction = self.detector(to_device(pictures, self.device))
        scores = prediction.score.float().cpu().numpy()
        return scores, None if prediction.map is None else prediction.map.float().cpu().numpy()

    def outline(self, pictures: torch.Tensor) -> NDArray[np.float32] | None:
        """Ask for the detector's own outline; see `Detector.outline`.

        Args:
            pictures: As `score` takes them.

        Returns:
            ``[B, H, W]``, above 0 inside; None if it has none.
        """
        if not self.detector.outlines:
            return None
        if len(pictures) == 0:
            return np.zeros((0, *self.config.framing.size), dtype=np.float32)
        with torch.inference_mode():
            outline = self.detector.outline(to_device(pictures, self.device))
        return outline.float().cpu().numpy()

    def _finding(self, source: Source, score: float, map_: NDArray[np.float32] | None) -> Finding:
        calibration = self.config.calibration
        return Finding(
            path=_path(source),
            score=score,
            normalized=float(calibration.normalize(score)) if calibration else None,
            anomalous=bool(calibration.is_anomalous(score)) if calibration else None,
            map=map_,
        )


def load(
    run: str | Path,
    *,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    threshold: float | None = None,
) -> LoadedDetector:
    """Load a detector that was trained and saved.

    Args:
        run: A run directory, or the ``model`` folder of one.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        precision: ``auto`` is the one it was calibrated in, in which its threshold holds.
        threshold: Score above which pictures are called anomalous, for this use in place of the
            saved one; nothing is saved. 0-to-1 scores are 0.5 there; maps stay as they are.

    Returns:
        The detector. There is a warning if precision, device or, on a CPU, the number of threads
        are not those of its calibration and verdicts may differ by that.

    Raises:
        ModelFileError: If the folder holds no model, or one that was changed.
        UnknownNameError: If the model's family is not installed.
        SettingError: If the threshold is no finite number, or the detector has no calibration.
    """
    folder = model_folder(run)
    tensors, config = _read(folder)
    if threshold is not None:
        config = chosen_by_hand(config, run, threshold)
    target = resolve_device(device)
    used = config.precision if precision == "auto" else resolve_precision(precision, target)
    if threshold is None:  # where another one was found is not known
        _warn_of_other_conditions(Path(run), config, used, target)
    return _build(folder, tensors, config, used, target)


def load_for_calibration(
    run: str | Path, *, device: str, precision: Literal["auto", "fp32", "bf16"]
) -> tuple[LoadedDetector, Path]:
    """Load a detector to find its thresholds anew; its configuration names the precision asked for.

    Returns:
        The detector and the folder it was read from.

    Raises:
        AdError: As `load` does.
    """
    folder = model_folder(run)
    tensors, config = _read(folder)
    target = resolve_device(device)
    if precision != "auto":
        config = replace(config, precision=resolve_precision(precision, target))
    return _build(folder, tensors, config, config.precision, target), folder


def chosen_by_hand(
    config: ModelConfig, run: str | Path, threshold: float, pixel_threshold: float | None = None
) -> ModelConfig:
    """A detector's configuration with a threshold that a person chose.

    Raises:
        SettingError: If a threshold is no finite number, or there is no calibration whose scale
            0-to-1 scores could keep.
    """
    if config.calibration is None:
        msg = (
            f"`{run}` has no calibration, as nothing was held out, and so no scale that 0-to-1 "
            f"scores around the threshold {threshold} could be on. First set one from good "
            f"pictures: ad calibrate {run} --normals DIR"
        )
        raise SettingError(msg)
    return replace(config, calibration=config.calibration.by_hand(threshold, pixel_threshold))


def model_folder(run: str | Path) -> Path:
    """The folder of the saved model: that of a run, or the one that is given.

    Raises:
        ModelFileError: If there is a file in its place.
    """
    folder = given_path(run, "the run")
    if (folder / "model").is_file():
        msg = f"`{folder / 'model'}` is a file: a run's model is a folder. `{folder}` is no run."
        raise ModelFileError(msg)
    return folder / "model" if (folder / "model").is_dir() else folder


def _read(folder: Path) -> tuple[dict[str, torch.Tensor], ModelConfig]:
    tensors, values = read_model(folder)
    return tensors, ModelConfig.from_json(values, folder)


def _build(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    config: ModelConfig,
    precision: Precision,
    device: torch.device,
) -> LoadedDetector:
    spec = ModelRegistry.get(config.model)
    trainer = load_trainer(spec)
    setup = Setup(
        img_size=config.framing.size,
        normalize=config.normalize,
        weights=FROM_MODEL_FILE,
        device=device,
        precision=precision,
    )
    try:
        options = resolve_options(spec, trainer, config.options)
        with built_within(tensors, folder):
            detector = trainer(setup, **options).detector
    except SettingError as error:  # nobody who loads a model has set anything
        msg = (
            f"The `config.json` of the saved model `{folder}` cannot be used: {error} It belongs "
            "to another version, or was changed; take it from the original again."
        )
        raise ModelFileError(msg) from error
    load_tensors(detector, tensors, folder)
    return LoadedDetector(detector, config, device)


def _warn_of_other_conditions(
    run: Path, config: ModelConfig, precision: Precision, device: torch.device
) -> None:
    """Warn where the threshold was found in another precision, device or number of threads."""
    if config.calibration is None:
        return
    then, now = [str(config.precision)], [str(precision)]
    if config.calibrated_on is not None:
        before, here = config.calibrated_on, Conditions.of(device)
        then.append(f"on `{before.device}`")
        now.append(f"on `{here.device}`")
        # A GPU computes the same whatever their number.
        if before.device == here.device == "cpu" and before.threads != here.threads:
            then.append(f"by {_threads(before.threads)}")
            now.append(f"by {_threads(here.threads)}")
    if then != now:
        warnings.warn(
            f"The threshold of `{run}` was set in {' '.join(then)}; scores are now computed in "
            f"{' '.join(now)} and differ a little, so that pictures near the threshold may get "
            f"another verdict. Set it anew here: ad calibrate {run} --normals DIR",
            stacklevel=3,
        )


def _threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"


def find_sources(inputs: Inputs, *, white: int | None = None) -> list[Source]:
    """The pictures that a caller's paths, folders and arrays stand for, in order.

    Args:
        inputs: As `LoadedDetector.predict` takes them.
        white: The value that is white in arrays of uint16; see `ad.core.data.pictures.rgb_array`.

    Raises:
        PictureError: If an array is no picture, or none knows what is white in it.
        DataError: If a path does not exist, or a folder holds no picture.
        PathError: If a path is empty.
    """
    many = inputs if isinstance(inputs, Sequence) and not isinstance(inputs, str) else [inputs]
    sources: list[Source] = []
    for one in many:
        if isinstance(one, np.ndarray):
            several = one if one.ndim == 4 else [one]
            sources += [rgb_array(picture, white=white) for picture in several]
            continue
        if not isinstance(one, (str, Path)):
            msg = f"A picture must be a path, a folder or a NumPy array; got {type(one).__name__}."
            raise DataError(msg)
        path = given_path(one, "a picture")
        if path.is_dir():
            sources += _parts_below(path)
        elif path.exists():
            sources.append(path)
        else:
            msg = f"There is no picture or folder `{path}`."
            raise DataError(msg)
    if not sources:
        msg = "There is no picture to score: give paths, a folder or arrays."
        raise DataError(msg)
    return sources


def _parts_below(folder: Path) -> list[Path]:
    """Pictures of parts below a folder; says what else is there and is not scored.

    Raises:
        DataError: If there is none.
    """
    pictures, masks = tell_apart(folder)
    others = Counter(
        why
        for path, why in everything_below(folder)
        if why in (OURS, NO_FILE) and path.suffix.lower() in SUFFIXES
    )
    if masks:
        others["masks"] = len(masks)
    left_out = ", ".join(f"{count} ({why})" for why, count in others.items())
    if not pictures:
        but = f"; {left_out} are left out" if left_out else ""
        msg = f"The folder `{folder}` holds no pictures (.jpg, .png, .bmp, .tif, ...){but}."
        raise DataError(msg)
    if left_out:
        warnings.warn(
            f"Of the files in `{folder}`, {left_out} are no pictures of parts and are left out. "
            "Name a file or its folder to score it all the same.",
            stacklevel=3,
        )
    return pictures


def _path(source: Source) -> Path | None:
    return source if isinstance(source, Path) else None
