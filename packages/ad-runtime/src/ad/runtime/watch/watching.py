"""Looks into a folder now and then, and scores what has settled there."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, final

from ad.runtime.drift import Stream
from ad.runtime.errors import AdError, DataError, OutputError, SettingError
from ad.runtime.files import write_atomic
from ad.runtime.findings import Finding
from ad.runtime.lines import line_of
from ad.runtime.paths import given_path
from ad.runtime.pictures.walking import VIDEO, everything_below
from ad.runtime.results import Row
from ad.runtime.runtime import Runtime
from ad.runtime.watch.journal import Identity, Journal
from ad.runtime.watch.moving import Destinations, move
from ad.runtime.watch.webhook import Webhook

MARK = ".verdict.json"
"""What a sidecar's name has behind that of its picture."""


@final
class Watched:
    """A folder whose pictures are scored as they appear, sub-folders and all; a context manager.

    A picture is scored once its size and the time of its last change are the same in two looks, so
    that half-written files wait. Scores are compared with those of calibration as they come; see
    `ad.runtime.drift.Stream`.

    Args:
        runtime: Scores.
        folder: To watch.
        output: The journal, see `ad.runtime.watch.journal`; ``FOLDER.jsonl`` beside the folder by
            default. It is gone on with if it is there.
        destinations: Folders that pictures are moved to, by ``good``, ``defective`` and
            ``unreadable``; pictures of other kinds stay.
        mark: Write what was found into a file beside each picture, ``NAME.verdict.json``.
        webhook: Address that each line is posted to.
        category: As of `Runtime.predict`.
        threshold: As of `Runtime.predict`.
        min_area: As of `Runtime.predict`.
        tell: Is called with what a person should know of.

    Raises:
        SettingError: If pictures are both marked and moved, a destination lies in the folder or on
            another file system, or the address is none.
        DataError: If the folder is none.
        OutputError: If the journal is of another model or folder, or cannot be written.
    """

    def __init__(
        self,
        runtime: Runtime,
        folder: str | Path,
        *,
        output: str | Path | None = None,
        destinations: Mapping[str, Path] | None = None,
        mark: bool = False,
        webhook: str | None = None,
        category: str | None = None,
        threshold: float | None = None,
        min_area: int | None = None,
        tell: Callable[[str], None] = print,
    ) -> None:
        given = given_path(folder, "the folder to watch")
        if not given.is_dir():
            what = "is a file" if given.exists() else "does not exist"
            msg = f"`{given}` {what}; give the folder to watch."
            raise DataError(msg)
        if mark and destinations:
            msg = "`--mark` and `--move` do not go together: take one of them."
            raise SettingError(msg)
        runtime.least_area(min_area, category, threshold)
        self.runtime, self.folder = runtime, given.resolve()
        self._verdict = {"category": category, "threshold": threshold, "min_area": min_area}
        self._mark, self._tell = mark, tell
        self._destinations = Destinations(self.folder, destinations or {})
        self._webhook = None if webhook is None else Webhook(webhook, tell)
        self._output = (
            self.folder.with_name(f"{self.folder.name}.jsonl")
            if output is None
            else given_path(output, "`--output`")
        )
        self._before: dict[Path, Identity] = {}
        self._troubles: set[str] = set()
        calibration, together = runtime.config.calibration_of(category)
        self._drift = Stream(calibration, categories=together)
        # What was told of those before was told then.
        self.journal = Journal(
            self._output, runtime.package.identity, self.folder, seen=self._follow
        )
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self.journal)

    def __enter__(self) -> Self:
        if self._webhook is not None:
            self._stack.enter_context(self._webhook)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def lines(self, *, interval: float = 1.0, once: bool = False) -> Iterator[dict[str, Any]]:
        """Score what appears.

        Args:
            interval: Seconds between two looks.
            once: Whether to end after the pictures that are there now; one that is still being
                written is left for another time.

        Yields:
            The line of each picture, as soon as it is in the journal and the picture is moved.

        Raises:
            OutputError: If the journal cannot be written.
            ModelFileError: If the graph fails.
            DataError: If the folder is gone.
        """
        if not interval > 0:
            msg = f"`interval` must be a number of seconds above 0; got {interval!r}."
            raise SettingError(msg)
        self._finish()
        self._settled()
        while True:
            time.sleep(interval)
            for identity in self._settled():
                if (line := self._scored(identity)) is not None:
                    yield line
            if once:
                for left in self._before.values():
                    if left not in self.journal:
                        self._tell(f"`{left.path}` is still being written and is left")
                return

    def _finish(self) -> None:
        """Do what a kill has kept from being done after a line."""
        for moved in self.journal.unfinished:
            self._move(Path(moved["path"]), Path(moved["moved_to"]))
        line = self.journal.last
        if self._mark and line is not None:
            identity = Identity(Path(line["path"]), line["size"], line["mtime_ns"])
            if Identity.of(identity.path) == identity:
                self._write_mark(identity.path, line)

    def _settled(self) -> list[Identity]:
        """New pictures that are as they were at the last look, the oldest first."""
        if not self.folder.is_dir():
            msg = f"The watched folder `{self.folder}` is gone."
            raise DataError(msg)
        now = {one.path: one for one in self._new()}
        settled = [one for path, one in now.items() if self._before.get(path) == one]
        self._before = now
        return sorted(settled, key=lambda one: (one.mtime_ns, one.path))

    def _new(self) -> Iterable[Identity]:
        try:
            for found in everything_below(self.folder):
                if found.why == VIDEO:
                    self._trouble(
                        f"There are videos in `{self.folder}`, which are not watched: score them "
                        "by `ad-runtime predict EXPORT VIDEO`"
                    )
                identity = None if found.why else Identity.of(found.path)
                if identity is not None and identity not in self.journal:
                    yield identity
        except (AdError, OSError) as error:  # a sub-folder that is just being made or removed
            self._trouble(str(error))

    def _scored(self, identity: Identity) -> dict[str, Any] | None:
        """Score, note and move a picture; None if it is another one by now."""
        path = identity.path
        try:
            (finding,) = self.runtime.stream([path], **self._verdict)  # type: ignore[arg-type]
        except DataError as error:  # its score is not finite, or it is gone
            finding = Finding(path=path, score=None, error=str(error))
        if Identity.of(path) != identity:
            return None
        found = Row.of(finding).to_json()
        for name in ("path", "heatmap"):
            del found[name]
        destination = self._destinations.free(path, finding.verdict)
        moved = None if destination is None else str(destination)
        line = self.journal.add(identity, {**found, "moved_to": moved})
        if destination is not None:
            self._move(path, destination)
        if self._mark:
            self._write_mark(path, line)
        if self._webhook is not None:
            self._webhook.send(line)
        for told in self._follow(line):
            self._tell(told)
        return line

    def _follow(self, line: Mapping[str, Any]) -> tuple[str, ...]:
        """Take the score of a line; what there is to tell of a drift."""
        score = line.get("score")
        return self._drift.add(score) if isinstance(score, float) else ()

    def _move(self, path: Path, destination: Path) -> None:
        try:
            move(path, destination)
        except OutputError as error:  # the line is safe: the next picture must not wait
            self._tell(str(error))

    def _write_mark(self, path: Path, line: Mapping[str, Any]) -> None:
        try:
            write_atomic(path.with_name(f"{path.name}{MARK}"), line_of(line))
        except OutputError as error:
            self._tell(str(error))

    def _trouble(self, text: str) -> None:
        if text not in self._troubles:
            self._troubles.add(text)
            self._tell(text)


def destinations_of(text: str) -> dict[str, Path]:
    """Read ``good=DIR,defective=DIR,unreadable=DIR``; which kinds there are is checked later.

    Raises:
        ValueError: If it is not that.
    """
    found: dict[str, Path] = {}
    for part in text.split(","):
        kind, _, folder = part.partition("=")
        if not folder or kind in found:
            msg = f"it takes good=DIR,defective=DIR,unreadable=DIR or some of them; got `{text}`"
            raise ValueError(msg)
        found[kind] = Path(os.path.expanduser(folder))
    return found
