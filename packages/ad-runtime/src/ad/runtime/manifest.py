"""A folder that says what is in it: ``manifest.json`` has the sha256 of every other file.

A saved model is such a folder, and so is an exported one. The manifest is read first and decides
which files count; nothing is parsed that has another hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from ad.runtime.errors import ModelFileError
from ad.runtime.files import (
    parse_json,
    read_limited,
    sha256_of,
    sync_folder,
    to_json,
    write_atomic,
)

SCHEMA = 1
"""Version of the formats of such folders; a newer one is refused."""

CONFIG, MANIFEST, ROI = "config.json", "manifest.json", "roi.png"

_NEXT_CONFIG = "config.next.json"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A kind of such folders."""

    noun: str
    """What it is, for an error: ``saved model``."""
    reader: str
    """The package that reads it: ``ad-core``."""
    again: str
    """How to get one that can be read: ``train again``."""
    source: str
    """What to give, in a sentence."""
    wrong_names: Callable[[AbstractSet[str]], str | None]
    """What a manifest must do that cannot list files of these names, ``must list ...``; None for
    one that can."""

    def read(self, folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
        """The manifest's hashes and the configuration that belongs to them, without its schema.

        Raises:
            ModelFileError: If one is missing, was changed, or is of a format not known here.
        """
        hashes = self.hashes(folder)
        try:
            return hashes, self._config(folder, hashes)
        except ModelFileError:
            now = self.hashes(folder)
            if now == hashes:
                raise
            return now, self._config(folder, now)  # it was given another one between the two reads

    def hashes(self, folder: Path) -> dict[str, str]:
        """The manifest's hashes by the names of the files.

        Raises:
            ModelFileError: If there is no manifest, or not one of such a folder.
        """
        manifest = parse_json(folder / MANIFEST, self._content(folder / MANIFEST))
        self.refuse_other_format(folder, manifest.get("schema"))
        hashes = manifest.get("sha256")
        if not isinstance(hashes, dict):
            wrong: str | None = "must have the sha256 of each file"
        else:
            wrong = self.wrong_names(set(hashes))
        if wrong is not None:
            msg = f"`{folder / MANIFEST}` {wrong}."
            raise ModelFileError(msg)
        return dict(hashes or {})

    def refuse_other_format(self, path: Path, schema: object) -> None:
        """Refuse what a version of another format wrote.

        Args:
            path: The folder, or the file that holds its own configuration.
            schema: The number that it gives.

        Raises:
            ModelFileError: If it is not the one that is read here.
        """
        if schema != SCHEMA:
            msg = (
                f"`{path}` is a model of format {schema!r}; this version of {self.reader} reads "
                f"format {SCHEMA}. Update {self.reader}, or {self.again}."
            )
            raise ModelFileError(msg)

    def check(self, path: Path, expected: object, *, largest: int | None = None) -> None:
        """Check that a file is the one that was saved.

        Args:
            path: The file.
            expected: Its hash in the manifest.
            largest: Bytes that it may have; None for any number.

        Raises:
            ModelFileError: If it is not, or is missing, too large or no regular file.
        """
        try:
            found = sha256_of(path, self.noun, largest=largest)
        except OSError as error:
            raise ModelFileError(self._missing(path, error)) from error
        if found != expected:
            raise ModelFileError(_changed(path))

    def roi(self, folder: Path) -> Path:
        """The file of a model's region of interest, after checking it.

        Raises:
            ModelFileError: If it is missing, was changed, or the manifest does not list it.
        """
        expected = self.hashes(folder).get(ROI)
        if expected is None:
            msg = (
                f"`{folder / MANIFEST}` does not list the sha256 of `{ROI}`, which the "
                "configuration speaks of. It was damaged or changed; take it from the original "
                "again."
            )
            raise ModelFileError(msg)
        self.check(folder / ROI, expected)
        return folder / ROI

    def describe(self, folder: Path, names: Iterable[str], config: Mapping[str, Any]) -> None:
        """Write configuration and manifest beside the files of a new folder.

        Args:
            folder: That nobody reads yet.
            names: Of its files.
            config: JSON values only.
        """
        write_atomic(folder / CONFIG, to_json({"schema": SCHEMA, **config}))
        hashes = {name: sha256_of(folder / name, self.noun) for name in (*names, CONFIG)}
        write_atomic(folder / MANIFEST, to_json({"schema": SCHEMA, "sha256": hashes}))

    def rewrite(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Give a folder another configuration, whole or not at all.

        The manifest decides which one counts. If the process is killed after the manifest was
        replaced and before the new configuration has its name, it is read from
        ``config.next.json``.

        Args:
            folder: Such a folder.
            config: JSON values only.

        Raises:
            ModelFileError: If the folder holds no model, or one that was changed.
            OutputError: If it cannot be written; the old configuration is then still there.
        """
        hashes = self.hashes(folder)
        old, new = folder / CONFIG, folder / _NEXT_CONFIG
        write_atomic(old, self._config_content(folder, hashes[CONFIG]))  # it may be the next one
        content = to_json({"schema": SCHEMA, **config})
        hashes[CONFIG] = hashlib.sha256(content).hexdigest()
        write_atomic(new, content)
        write_atomic(folder / MANIFEST, to_json({"schema": SCHEMA, "sha256": hashes}))
        new.replace(old)
        sync_folder(folder)

    def _config(self, folder: Path, hashes: Mapping[str, Any]) -> dict[str, Any]:
        config = parse_json(folder / CONFIG, self._config_content(folder, hashes[CONFIG]))
        self.refuse_other_format(folder, config.pop("schema", None))
        return config

    def _config_content(self, folder: Path, expected: object) -> bytes:
        """The content that has the manifest's hash."""
        for name in (CONFIG, _NEXT_CONFIG):
            if name == CONFIG or (folder / name).exists():
                content = self._content(folder / name)
                if hashlib.sha256(content).hexdigest() == expected:
                    return content
        raise ModelFileError(_changed(folder / CONFIG))

    def _content(self, path: Path) -> bytes:
        try:
            return read_limited(path, self.noun)
        except OSError as error:
            raise ModelFileError(self._missing(path, error)) from error

    def _missing(self, path: Path, error: OSError) -> str:
        listed = (
            ""
            if path.name == MANIFEST
            else (", which its manifest lists: it was copied in part, or is just being written")
        )
        return (
            f"`{path.parent}` is no {self.noun}: `{path.name}` cannot be read ({error.strerror})"
            f"{listed}. {self.source}"
        )


def _changed(path: Path) -> str:
    return (
        f"`{path}` is not the file that was saved: its sha256 differs from the manifest's. It was "
        "damaged or changed; take it from the original again."
    )
