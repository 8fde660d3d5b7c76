"""What a command refuses before torch loads, which takes seconds: mistyped names and paths.

Each function raises the error that the job itself would raise later, by the job's own check; what
passes here is checked once more there. No torch here.
"""

from __future__ import annotations

import ast
import importlib.util
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ad.core.data.finding import find_categories, locate, locate_again
from ad.core.data.places import find_places
from ad.core.errors import DataError, SettingError, WeightsError
from ad.core.options import (
    parse_assignments,
    parse_model,
    refuse_no_models,
    refuse_unknown,
    refuse_unset,
)
from ad.core.registry import ModelRegistry, ModelSpec, get_dataset
from ad.core.saved.files import TENSORS, read_config
from ad.core.saved.record import model_folder, read_run, run_around
from ad.runtime.framing import Region
from ad.runtime.package import is_exported
from ad.runtime.paths import nearest_beside


def check_model(name: str, assignments: Iterable[str] = ()) -> ModelSpec:
    """Refuse a model that is not installed, and options that it does not have.

    Returns:
        The model.

    Raises:
        AdError: One of its kinds.
    """
    spec = ModelRegistry.get(name)
    given = parse_assignments(list(assignments))
    known = _written_options(spec)
    if known is not None:
        refuse_unknown(given, known, spec.name)
    return spec


def check_data(dataset: str, category: str, data_root: str | Path | None) -> None:
    """Refuse a data set that is not known or not there, and categories that it does not have.

    Raises:
        AdError: One of its kinds.
    """
    layout = get_dataset(dataset)
    names, root = locate(layout, category, data_root)
    find_categories(layout, names, root)


def check_bench(
    datasets: Sequence[str],
    categories: Sequence[str],
    models: Sequence[str],
    roots: Mapping[str, str],
    assignments: Iterable[str] = (),
) -> None:
    """Refuse what `ad bench` cannot run.

    Raises:
        AdError: One of its kinds.
    """
    refuse_no_models(models)
    written: dict[str, list[str] | None] = {}
    for text in models:
        name, given = parse_model(text)
        spec = ModelRegistry.get(name)
        known = written[spec.name] = _written_options(spec)
        if known is not None:
            refuse_unknown(given, known, spec.name)
    shared = parse_assignments(list(assignments))
    known_of = {name: known for name, known in written.items() if known is not None}
    if len(known_of) == len(written):
        refuse_unset(shared, known_of)
    find_places(list(map(get_dataset, datasets)), categories, roots)


def check_run(run: Path) -> ModelSpec:
    """Refuse a path that holds no saved model, and a model of a family that is not installed.

    Returns:
        The model.

    Raises:
        AdError: One of its kinds.
    """
    return ModelRegistry.get(str(read_config(model_folder(run)).get("model")))


def check_run_or_export(path: Path) -> ModelSpec | None:
    """As `check_run`; an exported model is checked once it is read, which takes no torch.

    Returns:
        The model of a run; None for an exported one.

    Raises:
        AdError: One of its kinds.
    """
    return None if is_exported(path) else check_run(path)


_MOST_WORDS = 20
"""Of a command that is printed as a whole; a shell makes hundreds of `*.png`."""


def refuse_swapped(run: Path, paths: Iterable[str], typed: Sequence[str]) -> None:
    """Refuse a model that is given in place of pictures, with something else in its own place.

    Args:
        run: What is in the model's place.
        paths: What is in the place of pictures.
        typed: The words of the command line, from the command's name on.

    Raises:
        SettingError: If the two are swapped; it has the command that is right.
    """
    if _is_model(run):
        return
    model = next((path for path in map(Path, paths) if _is_model(path)), None)
    if model is None:
        return
    words = list(typed)
    places = [at for at, word in enumerate(words) if Path(word) in (run, model)]
    if len(places) == 2 and len(words) <= _MOST_WORDS:  # noqa: PLR2004 - neither is of an option
        first, second = places
        words[first], words[second] = words[second], words[first]
    else:
        words = [*words[:1], str(model), str(run), "..."]
    msg = (
        f"The run and the pictures are swapped: `{model}` is a model, and `{run}` is none. The run "
        f"comes first.\nhint: ad {shlex.join(words)}"
    )
    raise SettingError(msg)


def _is_model(path: Path) -> bool:
    """Whether it looks like a run, the saved model in one, or an exported one."""
    marks = ("run.json", TENSORS, f"model/{TENSORS}")
    return is_exported(path) or any((path / mark).is_file() for mark in marks)


def check_trained(run: Path, data_root: str | Path | None = None) -> ModelSpec:
    """Refuse what is no run directory, or has no saved model, or whose data are gone.

    Returns:
        The model.

    Raises:
        AdError: One of its kinds.
    """
    run = run_around(run)
    folder = model_folder(run)
    settings = read_run(run)["settings"]
    layout = get_dataset(settings["dataset"])
    given = settings["data_root"] if data_root is None else data_root
    find_categories(layout, *locate_again(layout, settings["category"], given))
    return check_run(folder)


def check_pictures(paths: Iterable[Path]) -> None:
    """Refuse a picture or folder that is not there.

    Raises:
        DataError: If one is not.
    """
    for path in paths:
        if not path.exists():
            msg = f"There is no picture or folder `{path}`.{nearest_beside(path)}"
            raise DataError(msg)


def check_good(folder: Path) -> None:
    """Refuse a folder of good pictures that is not there.

    Raises:
        DataError: If it is not.
    """
    if not folder.is_dir():
        close = nearest_beside(folder)
        msg = f"There is no folder `{folder}`.{close} Give a folder of good pictures."
        raise DataError(msg)


def check_files(weights: str, roi: Path | None) -> None:
    """Refuse weights that are not there, and a region of interest that cannot be used.

    Raises:
        WeightsError: If the weights are a path, and nothing is there.
        SettingError: If the region is not there, or is none.
    """
    if weights not in ("auto", "random") and not Path(weights).expanduser().exists():
        msg = (
            f"The weights file `{weights}` does not exist. `--weights` takes `auto`, `random` or a "
            "safetensors file."
        )
        raise WeightsError(msg)
    if roi is not None:
        Region.read(roi)


def _written_options(spec: ModelSpec) -> list[str] | None:
    """The options of a model as its source has them, which is read and not run.

    None where it does not say: where the class is made in another way, or inherits its constructor.
    """
    module, _, name = spec.trainer.partition(":")
    try:
        found = importlib.util.find_spec(module)
        assert found is not None
        assert found.origin is not None
        tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    except Exception:  # a plug-in may be of any kind; importing it says what is wrong
        return None
    classes = [one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == name]
    made = [
        one
        for kind in classes
        for one in kind.body
        if isinstance(one, ast.FunctionDef) and one.name == "__init__" and not one.decorator_list
    ]
    return [argument.arg for argument in made[0].args.kwonlyargs] if len(made) == 1 else None
