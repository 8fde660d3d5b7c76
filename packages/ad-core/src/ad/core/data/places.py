"""Where the categories are that several data sets are asked for. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ad.core.data.finding import find_categories, locate
from ad.core.data.samples import DatasetSpec
from ad.core.errors import DataError, SettingError, listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One category of a data set."""

    dataset: DatasetSpec
    """The layout."""
    category: str
    """As `ad.core.data.finding.collect` takes it."""
    title: str
    """What it is called in tables."""
    root: Path | None
    """The data set's folder; None for the layout's default."""


def find_places(
    datasets: Sequence[DatasetSpec], categories: Sequence[str], roots: Mapping[str, str]
) -> list[Place]:
    """The categories that are meant, each taken from every data set that has it.

    Args:
        datasets: Layouts.
        categories: Of any of them; ``all`` for every one.
        roots: Folder of each data set that needs one.

    Raises:
        SettingError: If a folder is given for another data set.
        DataError: If no data set has a category, or the data are missing or laid out otherwise.
    """
    names = [dataset.name for dataset in datasets]
    for name in roots:
        if name not in names:
            msg = f"A folder was given for `{name}`, which is none of {listed(names)}."
            raise SettingError(msg)
    places = [place for one in datasets for place in _places(one, categories, roots.get(one.name))]
    used = {name for one in places for name in (one.category, one.title, str(one.root))}
    for name in categories:
        if name != "all" and not {name, str(Path(name).expanduser().resolve())} & used:
            everywhere = (_places(one, ["all"], roots.get(one.name)) for one in datasets)
            there = {one.title for some in everywhere for one in some}
            msg = (
                f"No data set has a category `{name}`. There are {listed(there)}; "
                "`all` stands for every one."
            )
            raise DataError(msg)
    return places


def _places(dataset: DatasetSpec, categories: Sequence[str], root: str | None) -> list[Place]:
    if dataset.path_as_category and root is None:  # categories are folders
        found = []
        for given in categories:
            category, place = locate(dataset, given, None)
            title = place.name if place else category
            found.append(Place(dataset=dataset, category=category, title=title, root=place))
        return found
    _, place = locate(dataset, "all", root)
    _, known = find_categories(dataset, "all", place)
    wanted = known if "all" in categories else [name for name in categories if name in known]
    return [Place(dataset=dataset, category=name, title=name, root=place) for name in wanted]
