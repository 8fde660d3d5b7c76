"""Writes and reads results so that a crash never leaves half a file, and nothing is executed.

A saved model is a folder: ``model.safetensors`` (every tensor), ``config.json`` (how to build the
detector, its threshold), ``roi.png`` where only a region of pictures counts, and ``manifest.json``
(sha256 of all of them). Reading checks the manifest first. There is no format here that can hold
code, and no text in a file names any: a model's name is looked up among the installed ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from ad.core.errors import ModelFileError, OutputError
from ad.core.printable import escaped_json
from ad.core.saved.claims import alone, temporary_name

if TYPE_CHECKING:
    from torch import Tensor, nn

SCHEMA = 1
"""Version of the format of a saved model; a newer one is refused."""

TENSORS, CONFIG, MANIFEST = "model.safetensors", "config.json", "manifest.json"
ROI = "roi.png"
"""What counts of every picture; only models with such a region have it."""

_NEXT_CONFIG = "config.next.json"
_MODEL = "saved model"
_LARGEST_JSON = 16 * 2**20
"""Bytes; a larger one is no configuration, and parsing it would take the memory."""

LARGEST_LINES = 512 * 2**20
"""Bytes of a file with one JSON object per picture or epoch: millions of them."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary name, flush to disk, rename.

    Raises:
        OutputError: If it cannot be written; an older file of that name is then still there.
    """
    temporary = temporary_name(path)
    try:
        temporary.touch(exist_ok=False)
        with alone(temporary):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # such as a name that is too long
            temporary.unlink()
        msg = f"`{path}` cannot be written ({error.strerror}). Nothing there was changed."
        raise OutputError(msg) from error


def to_json(value: object) -> bytes:
    """JSON as people and tools like it: indented, keys in the order given, newline at the end.

    It can be printed as it is: what a terminal would obey is escaped.
    """
    text = escaped_json(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:  # a file name that is no valid text: escaped, it still is JSON
        return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def save_model(
    folder: Path, module: nn.Module, config: Mapping[str, Any], *, roi: bytes | None = None
) -> None:
    """Save a detector as a folder, whole or not at all.

    Args:
        folder: Where; must not exist yet.
        module: Its state is saved, contiguous, in its own element types.
        config: What is needed to build it again; JSON values only.
        roi: Content of ``roi.png``; None for no such file.

    Raises:
        OutputError: If the folder exists or cannot be written.
    """
    save_tensors(folder, module.state_dict(), config, roi=roi)


def save_tensors(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    roi: bytes | None = None,
) -> None:
    """Save named tensors in the format of a saved model; see `save_model`."""
    from safetensors.torch import (
        save_file,  # with torch, which reading a configuration does not need
    )

    if folder.exists():
        msg = f"`{folder}` exists already; a saved model is never overwritten."
        raise OutputError(msg)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    temporary = temporary_name(folder)
    try:
        temporary.mkdir(parents=True)
        with alone(temporary):
            save_file(tensors, temporary / TENSORS)
            with (temporary / TENSORS).open("rb+") as file:
                os.fsync(file.fileno())
            (temporary / TENSORS).chmod(0o666 & ~_umask())
            write_atomic(temporary / CONFIG, to_json({"schema": SCHEMA, **config}))
            names = [TENSORS, CONFIG]
            if roi is not None:
                write_atomic(temporary / ROI, roi)
                names.append(ROI)
            hashes = {name: _sha256(temporary / name) for name in names}
            write_atomic(temporary / MANIFEST, to_json({"schema": SCHEMA, "sha256": hashes}))
            temporary.rename(folder)
        _sync_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error)
        msg = f"The model cannot be saved to `{folder}` ({reason}). Nothing there was changed."
        raise OutputError(msg) from error


def read_model(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a saved model's tensors and configuration after checking its manifest.

    Raises:
        ModelFileError: If a file is missing, was changed, or is of a format not known here.
    """
    from safetensors.torch import load_file

    hashes, config = _read_description(folder)
    if _sha256(folder / TENSORS) != hashes[TENSORS]:
        raise ModelFileError(_changed(folder / TENSORS))
    try:
        tensors = load_file(folder / TENSORS)
    except SafetensorError as error:
        msg = f"`{folder}` holds no model that can be read: {error}"
        raise ModelFileError(msg) from error
    return tensors, config


def read_config(folder: Path) -> dict[str, Any]:
    """Read a saved model's configuration alone.

    Raises:
        ModelFileError: As `read_model` does, but for the tensors.
    """
    return _read_description(folder)[1]


def saved_roi(folder: Path) -> Path:
    """The file of a saved model's region of interest, after checking it.

    Raises:
        ModelFileError: If it is missing, was changed, or the manifest does not list it.
    """
    expected = _read_manifest(folder).get(ROI)
    if expected is None:
        msg = (
            f"`{folder / MANIFEST}` does not list the sha256 of `{ROI}`, which the configuration "
            "speaks of. It was damaged or changed; take it from the original again."
        )
        raise ModelFileError(msg)
    if _sha256(folder / ROI) != expected:
        raise ModelFileError(_changed(folder / ROI))
    return folder / ROI


def rewrite_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Give a saved model another configuration, whole or not at all.

    The manifest decides which one counts. If the process is killed after the manifest was
    replaced and before the new configuration has its name, it is read from ``config.next.json``.

    Args:
        folder: A saved model.
        config: As for `save_model`.

    Raises:
        ModelFileError: If the folder holds no model, or one that was changed.
        OutputError: If it cannot be written; the old configuration is then still there.
    """
    hashes = _read_manifest(folder)
    old, new = folder / CONFIG, folder / _NEXT_CONFIG
    write_atomic(old, _config_of(folder, hashes[CONFIG]))  # it may only be under the next name
    content = to_json({"schema": SCHEMA, **config})
    hashes[CONFIG] = hashlib.sha256(content).hexdigest()
    write_atomic(new, content)
    write_atomic(folder / MANIFEST, to_json({"schema": SCHEMA, "sha256": hashes}))
    new.replace(old)
    _sync_folder(folder)


def _read_description(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest's hashes and the configuration that belongs to them."""
    hashes = _read_manifest(folder)
    try:
        return hashes, _config_in(folder, hashes)
    except ModelFileError:
        now = _read_manifest(folder)
        if now == hashes:
            raise
        return now, _config_in(folder, now)  # it was given another one between the two reads


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The hashes by the names of the files."""
    manifest = _read_json(folder, MANIFEST)
    if manifest.get("schema") != SCHEMA:
        msg = (
            f"`{folder}` is a model of format {manifest.get('schema')!r}; this version of ad-core "
            f"reads format {SCHEMA}. Update ad-core, or train again."
        )
        raise ModelFileError(msg)
    hashes = manifest.get("sha256")
    if not isinstance(hashes, dict) or set(hashes) - {ROI} != {TENSORS, CONFIG}:
        msg = f"`{folder / MANIFEST}` must list the sha256 of `{CONFIG}` and `{TENSORS}`."
        raise ModelFileError(msg)
    return hashes


def _config_in(folder: Path, hashes: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that has the manifest's hash, without the format's number."""
    config = _parse_json(folder / CONFIG, _config_of(folder, hashes[CONFIG]))
    try:
        del config["schema"]
    except KeyError as error:
        msg = f"`{folder}` holds no model that can be read: {error}"
        raise ModelFileError(msg) from error
    return config


def _config_of(folder: Path, expected: object) -> bytes:
    """The file's content that has the manifest's hash."""
    for name in (CONFIG, _NEXT_CONFIG):
        if name == CONFIG or (folder / name).exists():
            content = _read_bytes(folder / name)
            if hashlib.sha256(content).hexdigest() == expected:
                return content
    raise ModelFileError(_changed(folder / CONFIG))


def _changed(path: Path) -> str:
    return (
        f"`{path}` is not the file that was saved: its sha256 differs from the manifest's. It was "
        "damaged or changed; take it from the original again."
    )


def read_limited(path: Path, kind: str, *, largest: int = _LARGEST_JSON) -> bytes:
    """Read a file that may come from anywhere, and never more of it than a limit.

    Args:
        path: The file.
        kind: What its folder should be, for the error: ``run directory``.
        largest: The limit, in bytes.

    Raises:
        ModelFileError: If it is a device or a pipe, which could be read for ever, or too large.
        OSError: If it is missing or cannot be read.
    """
    _check_regular(path, kind)
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        msg = f"`{path}` is larger than {largest:,} bytes: it is no file of a {kind}."
        raise ModelFileError(msg)
    return content


def _sha256(path: Path) -> str:
    _check_regular(path, _MODEL)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelFileError(_no_model(path, error)) from error


def _no_model(path: Path, error: OSError) -> str:
    return (
        f"`{path.parent}` is no saved model: `{path.name}` cannot be read ({error.strerror}). "
        "Give a run directory that `ad train` wrote, or the `model` folder in it."
    )


def _umask() -> int:
    # The only way to read it is to set it; safetensors writes for the owner alone.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    return _parse_json(folder / name, _read_bytes(folder / name))


def _check_regular(path: Path, kind: str) -> None:
    """Refuse what could be read for ever: a device, a pipe, or a link to one."""
    if path.exists() and not path.is_file():
        msg = f"`{path}` is no regular file: `{path.parent}` is no {kind}."
        raise ModelFileError(msg)


def _read_bytes(path: Path) -> bytes:
    try:
        return read_limited(path, _MODEL)
    except OSError as error:
        raise ModelFileError(_no_model(path, error)) from error


def _parse_json(path: Path, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # the latter where lists are nested too deep
        msg = f"`{path}` is no JSON: {error}"
        raise ModelFileError(msg) from error
    if not isinstance(value, dict):
        msg = f"`{path}` must hold a JSON object."
        raise ModelFileError(msg)
    return value


def _sync_folder(folder: Path) -> None:
    # Without this a rename may be lost with the power although the file's content is safe.
    if os.name == "nt":  # where folders cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
