"""A run's directory: whose it is, what it was made of, and whether it can be gone on with.

``run.json`` explains and repeats the run, ``log.jsonl`` says when what was done, ``metrics.json``
is written last: where it is, the run is finished.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shlex
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import torch

from ad.core.data.samples import Sample, fingerprint, fingerprint_of
from ad.core.errors import AdError, DataError, OutputError, SettingError
from ad.core.learning.checkpoints import Checkpoints
from ad.core.learning.distributed import World
from ad.core.options import check_option
from ad.core.registry import ModelRegistry, load_trainer
from ad.core.saved.claims import claim, clear_leftovers, hold, make_folder, make_free_folder
from ad.core.saved.record import LOG, read_run
from ad.core.settings import RunSettings
from ad.core.trainer import Trainer
from ad.runtime.files import to_json
from ad.runtime.framing.region import Crop, Region
from ad.runtime.framing.size import size_of
from ad.runtime.lines import unwritable
from ad.runtime.paths import ending, given_path

_CLAIMS, _PAUSE = 10, 0.05
"""Attempts to claim a run and the seconds between: some claims last for a moment only."""

_ROOM = 200
"""Bytes of a run's name, which has that of its category in it."""

_NOT_RECORDED_AT_FIRST = {"fit": "stretch"}
"""Settings that older runs do not name, and what they were."""

_PACKAGES = ("torch", "numpy", "pillow", "safetensors", "scipy", "timm", "faiss-cpu", "faiss-gpu")
"""Whose versions a run records, where they are installed."""


def make_run(name: str, output_dir: str | Path | None) -> Path:
    """The folder of a new run: the one named, or the first free one of a name below ``runs``.

    It belongs to this process until the job ends, see `ad.core.saved.claims.letting_go`. Of several
    that ask for one folder at once, one gets it.

    Raises:
        OutputError: If it cannot be made, is not empty, or another process works in it.
    """
    if output_dir is not None:
        folder = given_path(output_dir, "the output")
        if (folder / LOG).is_file():
            with claim_run(folder, shared=True):  # refuses one that is in use in other words
                pass
        make_folder(folder)
        if _begin(folder):
            return folder
        raise OutputError(_in_use(folder))  # where folders cannot be held
    while True:
        folder = make_free_folder(Path("runs") / folder_name(name))
        if _begin(folder):  # or somebody has named this folder meanwhile
            return folder


def folder_name(name: str) -> str:
    """A run's name as that of a folder, with room for a number or a suffix behind it."""
    return ending(re.sub(r"[^\w.-]+", "-", name), _ROOM)


def _begin(folder: Path) -> bool:
    """Whether this process is the one that begins a run in an empty folder."""
    try:
        log = (folder / LOG).open("x+b")
    except FileExistsError:
        return False
    except OSError as error:
        raise OutputError(unwritable(folder / LOG, error)) from error
    claim(log, wait=True)  # for those who look for a moment whether it is in use
    hold(log)
    return True


def claim_run(run: Path, *, shared: bool = False) -> IO[bytes]:
    """Claim a run that was begun, for as long as the file that is returned is open.

    Args:
        run: Its folder.
        shared: For a job that leaves what was learnt as it is, and minds only those who do not.

    Raises:
        OutputError: If another process trains in it or, for a claim of one's own, works on it.
    """
    try:
        file = (run / LOG).open("a+b", buffering=0)
    except OSError as error:
        raise OutputError(unwritable(run / LOG, error)) from error
    for _ in range(_CLAIMS):
        if claim(file, shared=shared):
            return file
        time.sleep(_PAUSE)
    file.close()
    raise OutputError(_in_use(run))


def tidy(run: Path) -> None:
    """Remove what jobs that were killed have left in a run's folder, and nobody needs."""
    clear_leftovers(run, run / "model", run / "checkpoint")
    if (run / "metrics.json").is_file():
        Checkpoints(run / "checkpoint").clear()


def _in_use(run: Path) -> str:
    return (
        f"Another process trains or calibrates in `{run}`, so nothing there was touched. Wait "
        "until it has ended, or name another folder."
    )


def describe_run(
    settings: RunSettings,
    samples: Sequence[Sample],
    trainer: Trainer,
    device: torch.device,
    precision: str,
    world: World,
    *,
    read: Mapping[str, Any],
    region: Region | None = None,
) -> dict[str, Any]:
    """The content of ``run.json``: what is needed to explain and repeat the run.

    Nothing is in it that differs when the run is repeated.

    Args:
        settings: Resolved.
        samples: Of all splits.
        trainer: That learns; says what it learns from beyond pictures.
        device: Where.
        precision: Of frozen networks.
        world: The processes.
        read: What the data were read as and what was left out, for a person: `Inventory.to_json`.
        region: What counts of the pictures.
    """
    packages = ["ad-core", ModelRegistry.get(settings.model).package, *_PACKAGES]
    return {
        "command": shlex.join(command_line(settings, world.size)),
        "settings": settings.model_dump(),
        "device": str(device),
        "precision": precision,
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "data": {
            "pictures": len(samples),
            "sha256": fingerprint(samples),
            "training": pictures_of(samples, "train"),
            "test": pictures_of(samples, "test"),
            "validation": pictures_of(samples, "validation"),
            "masks": masks_of(samples),
            "inputs": {
                **trainer.inputs,
                **({} if region is None else {"region of interest": region.sha256}),
            },
        },
        "read": read,
        "versions": {
            "python": platform.python_version(),
            **{name: found for name in packages if (found := _version(name))},
        },
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
        },
    }


def command_line(settings: RunSettings, processes: int = 1) -> list[str]:
    """The command line that makes the same run, with everything spelt out."""
    launcher = ["torchrun", "--nproc-per-node", str(processes), "-m", "ad.core.cli"]
    words = [
        *(launcher if processes > 1 else ["ad"]),
        "train",
        settings.dataset,
        settings.category,
        settings.model,
    ]
    if settings.data_root is not None:
        words += ["--data-root", settings.data_root]
    if settings.num_steps is None:  # the two are not given together
        words += ["--epochs", str(settings.num_epochs)]
    words += ["--batch-size", str(settings.batch_size)]
    words += ["--img-size", size_of(settings.img_size).typed, "--fit", settings.fit]
    if settings.resize is not None:
        words += ["--resize", size_of(settings.resize).typed]
    if settings.crop is not None:
        words += ["--crop", Crop(*settings.crop).typed]
    words += [] if settings.roi is None else ["--roi", settings.roi]
    if settings.tile is not None:
        words += ["--tile", size_of(settings.tile).typed, "--tile-scale", str(settings.tile_scale)]
    words += [] if settings.overlap is None else ["--overlap", str(settings.overlap)]
    words += ["--normalize" if settings.normalize else "--no-normalize"]
    for key, value in settings.options.items():
        words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    for key in (
        *("weights", "device", "precision", "seed", "holdout", "false_alarms"),
        *("budget", "feature_cache"),
    ):
        words += [f"--{key.replace('_', '-')}", str(getattr(settings, key))]
    for key, value in (("steps", settings.num_steps), ("patience", settings.patience)):
        words += [] if value is None else [f"--{key}", str(value)]
    words += ["--compile"] if settings.compile else []
    words += ["--supervised"] if settings.supervised else []
    return words


def _version(package: str) -> str | None:
    try:
        return version(package) if package else None
    except PackageNotFoundError:
        return None


def pictures_of(samples: Sequence[Sample], split: str) -> list[Any]:
    """How many pictures a split has, and a sha256 of their names and sizes.

    A renamed category makes no difference.
    """
    own = [replace(s, category="") for s in samples if s.split == split]
    return [len(own), fingerprint(own)]


def masks_of(samples: Sequence[Sample]) -> list[Any]:
    """How many masks there are, and a sha256 of their names and sizes."""
    masks = [mask for sample in samples for mask in sample.masks]
    return [len(masks), fingerprint_of(masks)]


def resume_run(run: Path, record: Mapping[str, Any], output_dir: str | Path | None) -> Path:
    """Check that a run was started with the same settings on the same data, and is not finished.

    It belongs to this process until the job ends, see `ad.core.saved.claims.letting_go`.

    Args:
        run: Its folder.
        record: What `describe_run` says of the run that is to go on.
        output_dir: Where the user wants the results; nowhere else than in ``run``.

    Returns:
        ``run``, without what must be made again.

    Raises:
        SettingError: If a setting differs, or the run is finished.
        DataError: If the data changed.
        ModelFileError: If the folder is no run.
        OutputError: If another process works in it.
    """
    if output_dir is not None and Path(output_dir).resolve() != run.resolve():
        msg = f"A resumed run stays where it is, `{run}`; leave out the output `{output_dir}`."
        raise SettingError(msg)
    read_run(run)  # what is no run is left alone
    hold(claim_run(run))
    whole = read_run(run)  # nobody else changes it now
    # The first runs did not record whether they were supervised, and were not.
    before = {"supervised": False, **_named_as_today(whole["settings"])}
    for name, value in json.loads(to_json(record["settings"])).items():
        if before.get(name) != value:
            msg = (
                f"`{run}` was started with `{name}` {before.get(name)!r}; got {value!r}. Resume it "
                "with the settings it was started with, or start a new run."
            )
            raise SettingError(msg)
    if whole["data"].get("inputs") != record["data"]["inputs"]:
        msg = (
            f"What `{run}` learns from beyond its pictures has changed since it was started: then "
            f"{_named(whole['data'].get('inputs'))}, now {_named(record['data']['inputs'])}. "
            "Restore it, or start a new run."
        )
        raise DataError(msg)
    not_recorded_at_first = {key: record["data"][key] for key in ("test", "validation", "masks")}
    if {**not_recorded_at_first, **whole["data"]} != record["data"]:
        msg = (
            f"The data of `{run}` have changed since it was started (then "
            f"{whole['data']['pictures']} pictures, now {record['data']['pictures']}). "
            "Restore them, or start a new run."
        )
        raise DataError(msg)
    if (run / "metrics.json").exists():
        msg = f"`{run}` is finished; there is nothing to resume."
        raise SettingError(msg)
    before, now = _conditions(whole), _conditions(record)
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        listed = ", ".join(f"{name} {before.get(name)} and not {now.get(name)}" for name in changed)
        warnings.warn(
            f"`{run}` was started with {listed}: it goes on, but may not end exactly as it would "
            "have.",
            stacklevel=3,
        )
    for folder in (run / "model", run / "checkpoint"):
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            msg = f"`{folder}` is in the way: the run has a folder there. Move it away."
            raise OutputError(msg)
    tidy(run)
    if (run / "model").exists():  # it was saved, but the run did not live to test it
        shutil.rmtree(run / "model")
    return run


def _named_as_today(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A record's settings with the names that model and option values have today."""
    try:
        spec = ModelRegistry.get(settings["model"])
        trainer = load_trainer(spec)
        options = {
            name: check_option(trainer, name, value, f"model `{spec.name}`")
            for name, value in settings["options"].items()
        }
    except (AdError, KeyError, TypeError, AttributeError):  # is compared as it stands
        return {**_NOT_RECORDED_AT_FIRST, **settings}
    named = {"model": spec.name, "options": json.loads(to_json(options))}
    return {**_NOT_RECORDED_AT_FIRST, **settings, **named}


def _conditions(record: Mapping[str, Any]) -> dict[str, Any]:
    """What results depend on beyond settings and data, if only in their last digits."""
    versions = record.get("versions") or {}
    keys = ("device", "precision", "threads", "processes", "machine")
    return {**{key: record.get(key) for key in keys}, **versions}


def _named(inputs: Mapping[str, str] | None) -> str:
    """Inputs with the start of their hashes."""
    return ", ".join(f"{name} {value[:8]}" for name, value in (inputs or {}).items()) or "nothing"


def forget(run: Path) -> None:
    """Remove a run that came to nothing, so that the same command can be tried again."""
    for name in ("run.json", LOG):
        (run / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody put a file there
        run.rmdir()
