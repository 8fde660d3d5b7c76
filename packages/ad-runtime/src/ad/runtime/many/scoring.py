"""What one who scores does: loads the model once, and makes lines of pictures."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from ad.runtime.errors import AdError, DataError, OutputError, PictureError
from ad.runtime.findings import Finding
from ad.runtime.many.tasks import Answer, Load, Task, Use
from ad.runtime.map_files import map_file, refuse_without_maps
from ad.runtime.numbered import write_numbered
from ad.runtime.results import Row
from ad.runtime.runtime import Runtime


@final
class Scorer:
    """Scores tasks.

    Args:
        use: How the model is used.
        load: Loads it, when it is first needed.
    """

    def __init__(self, use: Use, load: Load) -> None:
        self.use = use
        self._load = load
        self._runtime: Runtime | None = None

    def begin(self) -> Answer:
        """Load the model, and find out whether it can be used like that."""
        with _told() as texts:
            try:
                runtime = self._loaded()
                use = self.use
                runtime.least_area(use.min_area, use.category, use.threshold)
                if self.use.maps is not None:
                    refuse_without_maps(runtime.config.name, localises=runtime.localises)
            except AdError as error:
                return Answer(error=error, warnings=(*texts,))
        return Answer(warnings=(*texts,))

    def score(self, task: Task) -> Answer:
        """Make the lines of a task; a picture that fails is a line with its error."""
        lines: list[dict[str, Any]] = []
        with _told() as texts:
            try:
                try:
                    lines = [*self._lines(task.paths, task.names)]
                except OutputError:
                    raise
                except Exception as error:
                    # One picture must not cost the others of its chunk; a graph that fails at
                    # every picture costs all of them, and that is an end.
                    if isinstance(error, AdError) and not isinstance(error, DataError):
                        raise
                    names = task.names or ("",) * len(task.paths)
                    for path, name in zip(task.paths, names, strict=True):
                        lines.append(self._alone(path, name))
            except AdError as error:
                return Answer(error=error, warnings=(*texts,))
        return Answer(lines=(*lines,), warnings=(*texts,))

    def _loaded(self) -> Runtime:
        use = self.use
        if self._runtime is None:
            self._runtime = self._load(
                use.export, engine=use.engine, device=use.device, threads=use.threads
            )
        return self._runtime

    def _lines(self, paths: tuple[Path, ...], names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        use, runtime = self.use, self._loaded()
        calibration = runtime.calibration(use.category, use.threshold)
        threshold = None if calibration is None else calibration.threshold
        there = [path for path in paths if path.exists() and not path.is_dir()]
        findings = runtime.stream(
            there,
            batch_size=use.batch_size,
            category=use.category,
            threshold=use.threshold,
            min_area=use.min_area,
        )
        for number, path in enumerate(paths):
            if path not in there:
                yield line_of_error(path, f"There is no picture `{path}` any more.")
                continue
            finding = next(findings)
            file = None
            if use.maps is not None and finding.map is not None and finding.score is not None:
                try:
                    content = map_file(
                        path,
                        finding.score,
                        finding.map,
                        framing=runtime.config.framing,
                        threshold=threshold,
                    )
                except PictureError as error:  # it is not the one any more that was scored
                    yield line_of_error(path, str(error))
                    continue
                file = write_numbered(use.maps, names[number], content)
            yield _line(finding, file)

    def _alone(self, path: Path, name: str) -> dict[str, Any]:
        try:
            (line,) = self._lines((path,), (name,))
        except DataError as error:
            return line_of_error(path, str(error))
        except AdError:
            raise
        except Exception as error:
            why = f"An error that nobody foresaw: {type(error).__name__}: {error}"
            return line_of_error(path, why)
        return line


def line_of_error(path: Path, error: str) -> dict[str, Any]:
    """The line of a picture that has no score."""
    return _line(Finding(path=path, score=None, error=error), None)


def _line(finding: Finding, file: Path | None) -> dict[str, Any]:
    line = Row.of(finding).to_json()
    del line["heatmap"]
    return {**line, "map": None if file is None else str(file)}


@contextmanager
def _told() -> Iterator[list[str]]:
    """Collect the warnings inside, to be told by the process that a person sees."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield texts
        finally:
            texts += [str(one.message) for one in caught if one.category is UserWarning]
