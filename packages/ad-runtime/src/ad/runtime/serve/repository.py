"""The models that a server has: found, loaded, warmed up, and exchanged while it works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

import numpy as np

from ad.runtime.errors import AdError, ModelFileError, SettingError, listed, nearest
from ad.runtime.manifest import MANIFEST
from ad.runtime.runtime import Runtime
from ad.runtime.serve.limits import Refused
from ad.runtime.serve.queue import batch_of

Loader = Callable[[Path], Runtime]
Stamp = tuple[tuple[str, int, int, int], ...]
"""Of the files of an exported model: name, time of change, bytes, number in the file system."""


class Listener(Protocol):
    """Told of what becomes of models."""

    def loaded(self, model: Model, before: Model | None) -> None:
        """A model is there, in place of another or not."""

    def failed(self, name: str, path: Path, reason: str, *, kept: bool) -> None:
        """A model could not be loaded; the one before is kept, or there is none."""

    def unloaded(self, model: Model) -> None:
        """A model is not served any more."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One version of a model, ready to be asked. A request keeps to the one it was given."""

    name: str
    """Under which it is asked."""
    version: str
    """A whole number from 1."""
    runtime: Runtime
    """What answers."""


@dataclass(slots=True)
class _Slot:
    """A place on the disk that holds a model, or did."""

    path: Path
    name: str | None
    """That of its folder; None for the one it gives itself."""
    version: str
    model: Model | None = None
    called: str = ""
    """Under which it was served last; the folder's name before it ever was."""
    tried: Stamp = ()
    """Of the files when they were last looked at in order to load them."""
    reason: str = ""
    """Why they could not be loaded."""
    off: bool = False
    """Whether it was unloaded by request."""
    missing: int = 0
    """How often in a row its files were not there."""

    def __post_init__(self) -> None:
        self.called = self.name or self.path.name


class Repository:
    """All models of a server.

    Args:
        exports: Exported models, each served under the name it gives itself.
        folder: Its sub-folders are exported models, or hold such in ``1``, ``2``, ...: versions of
            which the highest answers unless another is asked for. None for no folder.
        load: Reads and checks one.
        listener: Told of what becomes of them.
    """

    def __init__(
        self, exports: Sequence[Path], folder: Path | None, load: Loader, listener: Listener
    ) -> None:
        self._load_one = load
        self._listener = listener
        self._folder = folder
        self._lock = threading.Lock()  # held by whoever changes; readers take what is there
        self._slots = [_Slot(path, None, "1") for path in exports]
        self._models: dict[str, dict[str, Model]] = {}
        self.ready = False
        """Whether all models that were there at the start were loaded."""

    def start(self) -> None:
        """Load all models, for the first time.

        Raises:
            AdError: If one cannot be loaded, there is none, or two have the same name.
        """
        with self._lock:
            self._find()
            if not self._slots:
                msg = (
                    f"The folder `{self._folder}` holds no exported model: each is a sub-folder "
                    "that `ad export` wrote, or has such for its versions, named 1, 2, ..."
                )
                raise SettingError(msg)
            for slot in self._slots:
                self._load(slot, first=True)
            self.ready = True

    def get(self, name: str, version: str | None = None) -> Model:
        """The model to ask.

        Args:
            name: Of the model.
            version: Of it; the highest by default.

        Raises:
            Refused: If there is none, or it is not ready.
        """
        versions = self.versions(name)
        if version is None:
            return versions[max(versions, key=int)]
        if version not in versions:
            known = ", ".join(versions)
            msg = f"`{name}` has no version {ascii(version[:40])}; served are {known}."
            raise Refused(404, msg)
        return versions[version]

    def versions(self, name: str) -> dict[str, Model]:
        """The versions of a model, lowest first.

        Raises:
            Refused: As `get` does.
        """
        found = self._models.get(name)
        if not found:
            known = self._models
            msg = (
                f"There is no model {ascii(name[:80])}; served are {listed(known)}."
                f"{nearest(name, known)}"
            )
            raise Refused(404, msg)
        return found

    def names(self) -> list[str]:
        """Of all models that are ready."""
        return sorted(self._models)

    def index(self) -> list[dict[str, str]]:
        """Every model with its state, as the protocol has it."""
        return [
            {
                "name": slot.called,
                "version": slot.version,
                "state": "UNAVAILABLE" if slot.model is None else "READY",
                "reason": "unloaded" if slot.off else slot.reason,
            }
            for slot in list(self._slots)
        ]

    def look(self) -> None:
        """Load what has changed on the disk since the last time."""
        with self._lock:
            self._find()
            for slot in list(self._slots):
                if not slot.off and self._is_new(slot):
                    self._load(slot)

    def load(self, name: str) -> None:
        """Load a model again, or one that was unloaded, whether it has changed or not.

        Raises:
            Refused: If it is not known, or cannot be loaded; an older one is kept.
        """
        with self._lock:
            self._find()
            slots = self._called(name)
            for slot in slots:
                slot.off = False
                self._load(slot)
            reasons = [slot.reason for slot in slots if slot.reason]
            if reasons:
                raise Refused(400, " ".join(reasons))

    def unload(self, name: str) -> None:
        """Serve a model no more until it is loaded again.

        Raises:
            Refused: If it is not known.
        """
        with self._lock:
            for slot in self._called(name):
                slot.off = True
                self._drop(slot)

    def _called(self, name: str) -> list[_Slot]:
        slots = [slot for slot in self._slots if slot.called == name]
        if not slots:
            known = [slot.called for slot in self._slots]
            msg = (
                f"There is no model {ascii(name[:80])}, but {listed(known)}.{nearest(name, known)}"
            )
            raise Refused(404, msg)
        return slots

    def _find(self) -> None:
        """Look for what is new in the folder of models, and for versions that were taken away."""
        if self._folder is None:
            return
        try:
            found = dict(_exports_in(self._folder))
        except OSError as error:
            if not self._slots:
                msg = f"The folder of models `{self._folder}` cannot be read ({error.strerror})."
                raise SettingError(msg) from error
            return
        known = {slot.path for slot in self._slots}
        for path, (name, version) in found.items():
            if path not in known:
                self._slots = [*self._slots, _Slot(path, name, version)]
        for slot in list(self._slots):
            slot.missing = 0 if slot.path in found else slot.missing + 1
            others = [one for one in self._slots if one.name == slot.name and one.model]
            # One that is being exchanged may be gone for a moment; an only version is kept.
            if slot.missing > 1 and (slot.model is None or len(others) > 1):
                self._slots = [one for one in self._slots if one is not slot]
                self._drop(slot)

    def _is_new(self, slot: _Slot) -> bool:
        stamp = _stamp_of(slot.path)
        if not stamp:  # it is not there: the old one goes on
            return False
        if slot.model is None or slot.reason:  # any file may be the one that was missing
            return stamp != slot.tried
        return _manifest(stamp) != _manifest(slot.tried)

    def _load(self, slot: _Slot, *, first: bool = False) -> None:
        before = slot.model
        slot.tried = _stamp_of(slot.path)
        try:
            model = self._ready(slot)
        except Exception as error:
            if first:
                raise
            said = isinstance(error, (AdError, OSError))
            slot.reason = str(error) if said else f"{type(error).__name__}: {error}"
            self._listener.failed(slot.called, slot.path, slot.reason, kept=before is not None)
            return
        slot.model, slot.called, slot.reason = model, model.name, ""
        self._publish(model.name, {**self._models.get(model.name, {}), model.version: model})
        self._listener.loaded(model, before)

    def _ready(self, slot: _Slot) -> Model:
        """A model that has been run as it will be."""
        runtime = self._load_one(slot.path)
        name = slot.name or runtime.config.name
        if slot.model is not None and slot.model.name != name:
            msg = (
                f"The exported model `{slot.path}` is now called `{name}` and no longer "
                f"`{slot.model.name}`, by which it is asked. Start the server again to serve it."
            )
            raise ModelFileError(msg)
        twin = next(
            (o for o in self._slots if o is not slot and o.model and o.called == name), None
        )
        if twin is not None and twin.version == slot.version:
            msg = (
                f"`{twin.path}` and `{slot.path}` are both called `{name}`. Put them into the "
                "sub-folders of one folder, whose names they are then served by: `--models DIR`."
            )
            raise SettingError(msg)
        size = runtime.config.framing.size
        for batch in {1, batch_of(runtime)}:
            for _ in range(2):  # the first run of a session prepares what all others use
                runtime.score(np.zeros((batch, *size, 3), np.uint8))
        return Model(name=name, version=slot.version, runtime=runtime)

    def _drop(self, slot: _Slot) -> None:
        model, slot.model = slot.model, None
        if model is not None:
            left = {v: m for v, m in self._models[model.name].items() if m is not model}
            self._publish(model.name, left)
            self._listener.unloaded(model)

    def _publish(self, name: str, versions: dict[str, Model]) -> None:
        """Exchange what readers see, at once."""
        models = {**self._models, name: dict(sorted(versions.items(), key=lambda it: int(it[0])))}
        self._models = {name: versions for name, versions in models.items() if versions}


def _exports_in(folder: Path) -> Iterator[tuple[Path, tuple[str, str]]]:
    """Exported models below a folder, each with its name and version."""
    for below in sorted(_folders(folder)):
        if (below / MANIFEST).exists():
            yield below, (below.name, "1")
            continue
        for version in sorted(_folders(below)):
            name = version.name
            if name.isascii() and name.isdigit() and name == str(int(name)) and int(name) > 0:
                yield version, (below.name, name)


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _stamp_of(path: Path) -> Stamp:
    """Of an exported model's files; nothing if there are none."""
    try:
        files = [*path.iterdir()] if path.is_dir() else [path]
        facts = [(file.name, file.stat()) for file in files]
    except OSError:
        return ()
    return tuple(sorted((name, s.st_mtime_ns, s.st_size, s.st_ino) for name, s in facts))


def _manifest(stamp: Stamp) -> Stamp:
    """That of the manifest alone, or of the one file that a model is."""
    return tuple(one for one in stamp if one[0] == MANIFEST) or stamp
