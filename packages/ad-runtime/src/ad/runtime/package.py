"""An exported model: a folder with a graph, how pictures become its input, and its threshold.

    model.onnx (and model.onnx.data) | model.xml and model.bin | model.pt2
    config.json   `ExportConfig`
    manifest.json sha256 of every other file, checked before anything is parsed
    parity.json   how far its scores are from those of the detector, where that was tried
    roi.png       where only a region of pictures counts

Nothing in it is imported or executed, and no text in it is taken for a path.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from ad.runtime.config import FILES, ExportConfig
from ad.runtime.errors import ModelFileError, OutputError, SettingError
from ad.runtime.files import (
    LARGEST_JSON,
    new_folder,
    parse_json,
    read_limited,
    sha256_of,
    sync_file,
    to_json,
    write_atomic,
)
from ad.runtime.framing import Region
from ad.runtime.manifest import CONFIG, MANIFEST, ROI, SCHEMA, Described
from ad.runtime.single import LARGEST_ONNX, SUFFIXES, embedded_config

PARITY = "parity.json"

_LARGEST = {
    "model.onnx": LARGEST_ONNX,
    "model.xml": 2**28,
    PARITY: LARGEST_JSON,
    ROI: 2**26,
}  # bytes
_LARGEST_WEIGHTS = 2**36  # of all others: they are read as they are needed
_EXPORTED = "exported model"


def _wrong_names(names: AbstractSet[str]) -> str | None:
    own = names - {CONFIG, PARITY, ROI}
    if CONFIG in names and any(own == {*some} for every in FILES.values() for some in every):
        return None
    words = " or ".join(" and ".join(f"`{name}`" for name in every[0]) for every in FILES.values())
    return (
        f"must list the sha256 of `{CONFIG}` and of the model's files ({words}), and of nothing "
        f"but these, `{PARITY}` and `{ROI}`"
    )


_FOLDER = Described(
    noun=_EXPORTED,
    reader="ad-runtime",
    again="export again",
    source="Give a folder that `ad export` wrote.",
    wrong_names=_wrong_names,
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """An exported model whose files are those that were saved."""

    path: Path
    """The folder, or the file of a model that is one."""
    config: ExportConfig
    """What it is."""
    sha256: Mapping[str, str]
    """Hashes by the names of the files; of a single file, that and nothing vouches for it."""
    parity: Mapping[str, Any] | None
    """Content of ``parity.json``; None without it."""

    @property
    def model(self) -> Path:
        """The file that an engine opens."""
        return self.path / self.config.files[0] if self.path.is_dir() else self.path

    @property
    def identity(self) -> str:
        """The sha256 of all its files together."""
        lines = [f"{hashed}  {name}\n" for name, hashed in sorted(self.sha256.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def is_exported(path: Path) -> bool:
    """Whether a path is what `ad export` wrote, by the names there: a folder or a model's file."""
    if path.suffix in SUFFIXES and path.is_file():
        return True
    names = [every[0][0] for every in FILES.values()]
    return (path / MANIFEST).is_file() and any((path / name).is_file() for name in names)


def read_package(path: str | Path) -> Package:
    """Read an exported model, whose every file must be the one that was saved.

    Args:
        path: A folder that `ad export` wrote, or a model's file that was exported as a single one.

    Raises:
        ModelFileError: If it is no exported model, or one that was changed or is not known here.
    """
    path = Path(path)
    if path.is_file() and path.suffix in SUFFIXES:
        return _read_single(path)
    if path.is_file() or not path.is_dir():
        what = "is a file" if path.is_file() else "does not exist"
        msg = f"`{path}` {what}: it is no exported model. {_FOLDER.source}"
        raise ModelFileError(msg)
    _check_exported(path)
    _check_inside(path, (MANIFEST, CONFIG))
    hashes, values = _FOLDER.read(path)
    _check_inside(path, hashes)
    for name in set(hashes) - {CONFIG}:
        largest = _LARGEST.get(name, _LARGEST_WEIGHTS)
        _FOLDER.check(path / name, hashes[name], largest=largest)
    region = _region(path / ROI) if ROI in hashes else None
    config = ExportConfig.from_json(values, path, region)
    if {*config.files} != set(hashes) - {CONFIG, PARITY, ROI}:
        msg = f"`{path / MANIFEST}` does not list the files that `{CONFIG}` names: export again."
        raise ModelFileError(msg)
    parity = None
    if PARITY in hashes:
        parity = parse_json(path / PARITY, read_limited(path / PARITY, _EXPORTED))
    return Package(path=path, config=config, sha256=hashes, parity=parity)


def write_package(
    folder: str | Path,
    files: Mapping[str, Path | bytes],
    config: ExportConfig,
    *,
    parity: Mapping[str, Any] | None = None,
) -> Package:
    """Write an exported model, whole or not at all.

    Args:
        folder: Where; must not exist yet.
        files: Content of each of ``config.files``, or a file to move there.
        config: What it is; its region, if it has one, is written too.
        parity: How far its scores are from those of the detector; JSON values only.

    Returns:
        It, as it was read again.

    Raises:
        OutputError: If the folder exists or cannot be written.
        ModelFileError: If it could not be read again: the configuration does not hold together.
    """
    folder = Path(folder)
    if {*files} != {*config.files}:
        msg = f"`files` must be those of the configuration, {list(config.files)}; got {[*files]}."
        raise SettingError(msg)
    with new_folder(folder, "model") as new:
        for name, content in files.items():
            if isinstance(content, bytes):
                write_atomic(new / name, content)
            else:
                shutil.move(content, new / name)
                sync_file(new / name)
        others: dict[str, bytes] = {}
        if parity is not None:
            others[PARITY] = to_json(dict(parity))
        if config.framing.region is not None:
            others[ROI] = config.framing.region.png
        for name, content in others.items():
            write_atomic(new / name, content)
        _FOLDER.describe(new, [*files, *others], config.to_json())
        package = read_package(new)
    return replace(package, path=folder)


def rewrite_config(folder: Path, config: ExportConfig) -> None:
    """Give an exported model another configuration, such as a new threshold, whole or not at all.

    Args:
        folder: That `write_package` wrote.
        config: With the same files and region.

    Raises:
        ModelFileError: If the folder holds no exported model, or one that was changed.
        OutputError: If it is a single file, or cannot be written; nothing was changed then.
    """
    if not folder.is_dir():
        msg = (
            f"`{folder}` is a single file, which is never changed. Export again as a folder, "
            "without `--single-file`."
        )
        raise OutputError(msg)
    _FOLDER.rewrite(folder, config.to_json())


def _read_single(path: Path) -> Package:
    config = ExportConfig.from_json(_without_schema(path), path)
    alone = FILES["onnx" if path.suffix == ".onnx" else "openvino"][0]
    if config.files != alone:
        msg = (
            f"`{path}` says that it is one of the files {list(config.files)}, and so works in "
            "their folder alone: give that."
        )
        raise ModelFileError(msg)
    hashes = {}
    for file in (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,):
        try:
            hashes[file.name] = sha256_of(file, _EXPORTED, largest=_LARGEST_WEIGHTS)
        except OSError as error:
            msg = f"`{file}`, which is part of the model, cannot be read ({error.strerror})."
            raise ModelFileError(msg) from error
    return Package(path=path, config=config, sha256=hashes, parity=None)


def embedded(config: ExportConfig) -> str:
    """The text to put into the metadata of a model's file so that the file works alone.

    Args:
        config: Without a region of interest, which is a file of its own.

    Raises:
        SettingError: If it has one.
    """
    if config.framing.region is not None:
        msg = (
            "A model with a region of interest (`roi`) cannot be a single file: the region is one "
            "of its own. Leave `--single-file` out."
        )
        raise SettingError(msg)
    return json.dumps({"schema": SCHEMA, **config.to_json()}, allow_nan=False)


def _without_schema(path: Path) -> dict[str, Any]:
    values = parse_json(path, embedded_config(path))
    _FOLDER.refuse_other_format(path, values.pop("schema", None))
    return values


def _check_exported(folder: Path) -> None:
    """Point from a run to its export."""
    if (folder / MANIFEST).exists() and not (folder / "model.safetensors").exists():
        return
    if (folder / "run.json").exists() or (folder / "model.safetensors").exists():
        msg = (
            f"`{folder}` is what `ad train` wrote, and no exported model.\n"
            f"hint: ad export {shlex.quote(str(folder))}"
        )
        raise ModelFileError(msg)


def _check_inside(folder: Path, names: Iterable[str]) -> None:
    """Refuse links that lead out of a folder."""
    home = folder.resolve()
    for name in names:
        try:
            inside = (folder / name).resolve().is_relative_to(home)
        except (OSError, RuntimeError):  # a link to itself
            inside = False
        if not inside:
            msg = (
                f"`{folder / name}` is a link that leads out of its folder: whoever wrote it could "
                "have any file of this machine read. Put the file itself there."
            )
            raise ModelFileError(msg)


def _region(path: Path) -> Region:
    try:
        return Region.read(path)
    except SettingError as error:  # nobody who loads a model has set anything
        msg = (
            f"The region of interest of the exported model `{path.parent}` cannot be used: "
            f"{error} It was changed; take it from the original again."
        )
        raise ModelFileError(msg) from error
