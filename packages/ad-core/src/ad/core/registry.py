"""Finds models and data sets that installed distributions announce as entry points.

Listing names reads package metadata only; a model's catalogue entry is imported when it is
asked for, its code when it is trained or loaded, and neither before. No torch here.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from ad.core.errors import (
    AdError,
    PluginError,
    SettingError,
    UnknownNameError,
    how_to_install,
    listed,
    nearest,
    raised_at,
)

if TYPE_CHECKING:
    from ad.core.data.samples import DatasetSpec
    from ad.core.tracking import Tracker
    from ad.core.trainer import Trainer

MODELS = "ad.models"
DATASETS = "ad.datasets"
COMMANDS = "ad.commands"
TRACKERS = "ad.trackers"

# For what is not installed; tests/test_workspace.py keeps it true.
_HOMES = {
    "ad-memory": ("padim", "patchcore", "dfkde"),
    "ad-distill": ("stfpm", "fre", "reverse-distillation", "efficientad"),
    "ad-recon": ("autoencoder", "ganomaly", "draem", "dsr"),
    "ad-flow": ("cflow", "fastflow", "csflow", "uflow", "msflow"),
    "ad-adapt": ("dfm", "cfa", "simplenet"),
    "ad-foundation": ("dinomaly", "supersimplenet", "uninet"),
}

TASKS = {
    "classifies": "says whether a picture is defective",
    "localises": "says where, too",
    "few-shot": "made for few good pictures",
    "zero-shot": "needs no picture of the product",
    "supervised": "can learn from labelled defects",
    "logical": "made for what is missing or misplaced, too",
    "multi-product": "made for several products in one model",
}
"""What the entry of a model may say that it can do, and what that means."""

_TRAIN_KEYS = {"num_epochs": int, "batch_size": int, "img_size": int, "normalize": bool}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One line of a family's catalogue: what a name stands for, with its defaults."""

    name: str
    """Registry name, as typed by the user and written into runs and saved models."""
    aliases: tuple[str, ...] = ()
    """Other names of the same model, each with an entry point of its own to this entry."""
    trainer: str
    """Where the trainer lives: ``"ad.memory.padim:PadimTrainer"``."""
    model: Mapping[str, Any]
    """Options of the trainer that differ from, or spell out, its defaults."""
    train: Mapping[str, Any]
    """``num_epochs``, ``batch_size``, ``img_size`` (pixels) and ``normalize``."""
    paper_budget: Mapping[str, Any] = field(default_factory=dict)
    """The authors' schedule: some of ``num_epochs``, ``num_steps``, ``batch_size``, ``img_size``
    and ``options``; empty if the catalogue's is theirs."""
    summary: str = ""
    """The idea in one line."""
    paper: str = ""
    """Title and venue."""
    url: str = ""
    """Where the paper can be read."""
    year: int | None = None
    """Year of the paper."""
    code_licence: str = ""
    """Licence of the method's official code, which this project does not contain."""
    tasks: tuple[str, ...] = ()
    """What it can do, of `TASKS`."""
    by_gradient: bool | None = None
    """Whether it learns by gradient, with these options; None if nobody says."""
    extra_data: tuple[str, ...] = ()
    """What it wants beyond normal pictures: textures, penalty images, masks, ..."""
    weights: tuple[str, ...] = ()
    """Pretrained weights that its training starts from, where its option ``backbone`` does not say
    it: names of timm, or of files in the folder of ``AD_WEIGHTS``."""
    tileable: bool = True
    """Whether one model can serve for all tiles of a picture: not if it knows positions."""
    check: Mapping[str, Any] = field(default_factory=dict)
    """How `ad.core.testing.check_model` tries it: some of ``img_size``, ``num_epochs`` and
    ``options`` that make it small, and ``expected_failures``, ids of checks and the reasons."""
    package: str = field(default="", compare=False)
    """Distribution that provides it; filled in by the registry."""

    def __post_init__(self) -> None:
        if isinstance(self.aliases, str) or self.name in self.aliases:
            msg = (
                f"`aliases` of model `{self.name}` must be other names in a tuple, such as "
                f'("short",); got {self.aliases!r}.'
            )
            raise SettingError(msg)
        self._refuse_wrong_types()
        unknown = set(self.train) - set(_TRAIN_KEYS)
        missing = set(_TRAIN_KEYS) - set(self.train)
        if unknown or missing:
            msg = (
                f"The training defaults of model `{self.name}` must be exactly "
                f"{listed(_TRAIN_KEYS)}; missing: {listed(missing)}, unknown: {listed(unknown)}."
            )
            raise SettingError(msg)
        for key, kind in _TRAIN_KEYS.items():
            value = self.train[key]
            if type(value) is not kind or (isinstance(value, int) and kind is int and value < 1):
                allowed = "True or False" if kind is bool else "a whole number from 1"
                msg = f"`{key}` of model `{self.name}` must be {allowed}; got {value!r}."
                raise SettingError(msg)

    def _refuse_wrong_types(self) -> None:
        """Refuse what would be read as something else, or fail much later.

        Raises:
            SettingError: Naming the first.
        """
        module, _, name = str(self.trainer).partition(":")
        path = [*module.split("."), name]
        wrong = {
            "trainer": not all(map(str.isidentifier, path)) and "`package.module:Class`",
            "summary": not isinstance(self.summary, str) and "a line of text",
            "by_gradient": self.by_gradient not in (None, True, False) and "True, False or None",
        }
        for key in ("tasks", "extra_data", "weights"):
            value = getattr(self, key)
            texts = not isinstance(value, str) and all(isinstance(one, str) for one in value)
            wrong[key] = not texts and 'texts in a tuple, such as ("one",)'
        for key in ("model", "train", "paper_budget", "check"):
            wrong[key] = not isinstance(getattr(self, key), Mapping) and "a dict"
        for key, allowed in wrong.items():
            if allowed:
                msg = (
                    f"`{key}` of model `{self.name}` must be {allowed}; got {getattr(self, key)!r}."
                )
                raise SettingError(msg)

    @property
    def pretrained(self) -> tuple[str, ...]:
        """The pretrained weights that its training starts from; see `weights`."""
        backbone = self.model.get("backbone")
        own = isinstance(backbone, str) and backbone != "filter_bank"
        return self.weights or ((str(backbone),) if own else ())

    def variant(
        self,
        name: str,
        *,
        summary: str,
        model: Mapping[str, Any] | None = None,
        train: Mapping[str, Any] | None = None,
        **facts: Any,  # noqa: ANN401 - of any field
    ) -> ModelSpec:
        """A sibling: the same model with some other numbers, as a model of its own.

        Args:
            name: Its registry name.
            summary: The idea in one line.
            model: Options that differ from this one's.
            train: Training defaults that differ.
            facts: Other fields, each in place of this one's. Of these `aliases` and `check` are
                not handed down: other names are this one's alone, and so is what was found to
                make it quick to check.

        Raises:
            SettingError: If the training defaults are not what `train` takes.
        """
        return dataclasses.replace(
            self,
            name=name,
            summary=summary,
            model={**self.model, **(model or {})},
            train={**self.train, **(train or {})},
            **{"aliases": (), "check": {}, **facts},
        )


class ModelRegistry:
    """The models that can be named: those of installed distributions and those added here."""

    _added: dict[str, ModelSpec] = {}

    @classmethod
    def register(
        cls,
        name: str,
        trainer_path: str,
        model_dict: Mapping[str, Any],
        train_dict: Mapping[str, Any],
    ) -> ModelSpec:
        """Add a model for the life of this process, without an entry point.

        Args:
            name: Name to train it by; must be free.
            trainer_path: ``"package.module:Class"`` (``"package.module.Class"`` works too).
            model_dict: Options of the trainer.
            train_dict: ``num_epochs``, ``batch_size``, ``img_size``, ``normalize``.

        Raises:
            SettingError: If the name is taken or malformed, the path names no class or the
                training defaults are incomplete.
        """
        if not name or not all(c.isalnum() or c in "-_." for c in name):
            msg = f"A model's name is letters, digits, `-`, `_` and `.`; got {name!r}."
            raise SettingError(msg)
        if name in cls.names():
            msg = (
                f"The model name `{name}` is taken. Choose another one; taken are: "
                f"{listed(cls.names())}."
            )
            raise SettingError(msg)
        path = trainer_path if ":" in trainer_path else ":".join(trainer_path.rsplit(".", 1))
        if path.count(":") != 1 or not all(
            part.isidentifier() for part in path.replace(":", ".").split(".")
        ):
            msg = f"`trainer_path` must read `package.module:Class`; got {trainer_path!r}."
            raise SettingError(msg)
        spec = ModelSpec(name=name, trainer=path, model=dict(model_dict), train=dict(train_dict))
        cls._added[name] = spec
        return spec

    @classmethod
    def unregister(cls, name: str) -> None:
        """Forget a model that `register` added; others are left alone."""
        cls._added.pop(name, None)

    @classmethod
    def names(cls) -> list[str]:
        """Names of all models that are installed or were registered, sorted."""
        return sorted({point.name for point in entry_points(group=MODELS)} | set(cls._added))

    @classmethod
    def get(cls, name: str) -> ModelSpec:
        """The catalogue entry of one model.

        Args:
            name: Its name, or one of its aliases: the entry has its own name in either case.

        Raises:
            UnknownNameError: If nothing provides ``name``; says the nearest and what to install.
            PluginError: If two distributions provide it, or its catalogue is broken.
        """
        if name in cls._added:
            return cls._added[name]
        point = _only_point(MODELS, "model", name)
        if point is None:
            raise UnknownNameError(_unknown_model(name, cls.names()))
        spec = _load(point, "model")
        if not isinstance(spec, ModelSpec) or name not in (spec.name, *spec.aliases):
            given = repr(type(spec))
            if isinstance(spec, ModelSpec):
                given = listed([spec.name, *spec.aliases])
            msg = (
                f"Entry point `{name}` of {_owner(point)} must be a `ModelSpec` named `{name}`, or "
                f"one with `{name}` among its `aliases`; `{point.value}` is {given}."
            )
            raise PluginError(msg)
        object.__setattr__(spec, "package", point.dist.name if point.dist else "")
        return spec


def load_trainer(spec: ModelSpec) -> type[Trainer]:
    """Import the trainer class of a model; torch loads here.

    Raises:
        PluginError: If the import fails, or what it names is no `Trainer`.
    """
    from ad.core.trainer import Trainer

    module_name, _, class_name = spec.trainer.partition(":")
    with _importing(f"trainer `{spec.trainer}` of model `{spec.name}`", module_name):
        found = getattr(importlib.import_module(module_name), class_name)
    if not (isinstance(found, type) and issubclass(found, Trainer)):
        msg = (
            f"`{spec.trainer}` of model `{spec.name}` must be a subclass of "
            f"`ad.core.Trainer`; it is {found!r}."
        )
        raise PluginError(msg)
    return found


def is_ours(name: str) -> bool:
    """Whether one of this project's models or packages has a name, be it installed or not."""
    packages = {"ad-core", "ad-runtime", *_HOMES}
    return f"ad-{name}" in packages or any(name in models for models in _HOMES.values())


def is_family(package: str) -> bool:
    """Whether a package is one of this project's that bring models, be it installed or not."""
    return package in _HOMES


def dataset_names() -> list[str]:
    """Names of all installed data set layouts, sorted."""
    return sorted({point.name for point in entry_points(group=DATASETS)})


def get_dataset(name: str) -> DatasetSpec:
    """The reader of one data set layout.

    Raises:
        UnknownNameError: If nothing provides ``name``.
        PluginError: If two distributions provide it, or it cannot be imported.
    """
    from ad.core.data.samples import DatasetSpec

    point = _only_point(DATASETS, "data set", name)
    if point is None:
        names = dataset_names()
        msg = (
            f"No data set layout named `{name}` is installed.{nearest(name, names)} "
            f"Installed: {listed(names)}.\nhint: for a folder of your own pictures, use `folder`"
        )
        raise UnknownNameError(msg)
    spec = _load(point, "data set")
    if not isinstance(spec, DatasetSpec):
        msg = f"Data set `{name}` of {_owner(point)} must be a `DatasetSpec`; got {type(spec)!r}."
        raise PluginError(msg)
    return spec


def get_tracker(name: str) -> type[Tracker]:
    """The class of a tracker.

    Raises:
        UnknownNameError: If nothing provides ``name``.
        PluginError: If two distributions provide it, a package that it needs is missing, or what
            it names is no `Tracker`.
    """
    from ad.core.tracking import Tracker

    point = _only_point(TRACKERS, "tracker", name)
    if point is None:
        names = sorted({point.name for point in entry_points(group=TRACKERS)})
        msg = (
            f"No tracker named `{name}` is installed.{nearest(name, names)} "
            f"Installed: {listed(names)}.\nhint: to add one, name a subclass of "
            f"`ad.core.tracking.Tracker` as an entry point of `{TRACKERS}` in a package of yours"
        )
        raise UnknownNameError(msg)
    kind = _load(point, "tracker")
    if not (isinstance(kind, type) and issubclass(kind, Tracker)):
        msg = f"Tracker `{name}` of {_owner(point)} must be a subclass of `Tracker`; got {kind!r}."
        raise PluginError(msg)
    return kind


def _only_point(group: str, noun: str, name: str) -> EntryPoint | None:
    points = tuple(entry_points(group=group, name=name))
    # The same distribution can be on the path twice (editable and built); that is no conflict.
    owners = {_owner(point) for point in points}
    if len(owners) > 1:
        msg = (
            f"The {noun} `{name}` is provided by more than one distribution: "
            f"{', '.join(sorted(owners))}. Uninstall all but one."
        )
        raise PluginError(msg)
    return points[0] if points else None


def _load(point: EntryPoint, noun: str) -> object:
    what = f"{noun} `{point.name}` (`{point.value}` of {_owner(point)})"
    with _importing(what, point.value.partition(":")[0]):
        return point.load()


@contextmanager
def _importing(what: str, module: str) -> Iterator[None]:
    """Have what a package raises while it is imported say which one it is, and where."""
    try:
        yield
    except AdError:  # it says itself what is wrong
        raise
    except Exception as error:  # a plug-in may raise anything; its name must be in the message
        place = raised_at(error, module)
        msg = f"The {what} cannot be imported: {type(error).__name__}: {error}{place}"
        raise PluginError(msg) from error


def _owner(point: EntryPoint) -> str:
    return f"`{point.dist.name}`" if point.dist else "an unnamed distribution"


def _is_of(name: str, families: Iterable[str]) -> bool:
    return any(name == family or name.startswith(f"{family}-") for family in families)


def _unknown_model(name: str, installed: list[str]) -> str:
    lines = [f"No model named `{name}` is installed.{nearest(name, installed)}"]
    lines.append(f"Installed: {listed(installed)}.")
    homes = [
        package
        for package, families in _HOMES.items()
        if _is_of(name, families) and not any(family in installed for family in families)
    ]
    lines += [f"hint: `{home}` brings it; {how_to_install(home)}" for home in homes]
    return "\n".join(lines)
