"""What a training is to be, settled and checked before it learns or touches the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ad.core.data.contents import check_pictures, copies_in_folds
from ad.core.data.finding import collect, locate
from ad.core.data.inventory import take_inventory
from ad.core.data.samples import DatasetSpec, Sample, defects_to_learn
from ad.core.devices import resolve_device, resolve_precision
from ad.core.errors import DataError, SettingError
from ad.core.figures.measure import maps_beyond
from ad.core.framing import Framing
from ad.core.learning.distributed import World, join_world
from ad.core.predict import ModelConfig, check_localises
from ad.core.registry import (
    ModelRegistry,
    ModelSpec,
    get_dataset,
    get_tracker,
    load_trainer,
)
from ad.core.saved.allocation import fits_in_memory
from ad.core.settings import DEFAULT_HOLDOUT, Holdout, RunSettings, run_settings
from ad.core.thresholds.held_out import CROSS, folds_of, hold_out, share_out, too_few
from ad.core.tracking import Tracker
from ad.core.trainer import GradientTrainer, OnePassTrainer, Precision, Setup, Trainer, made
from ad.runtime.budget import memory_budget
from ad.runtime.errors import counted, shown
from ad.runtime.pictures.levels import find_white_level
from ad.runtime.progress import Progress

_FEW = 200
"""Good pictures up to which `holdout` ``auto`` may fit as many detectors as there are folds."""
_NAMED = 3
"""Folders of left out files that a training names; `run.json` has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a run learns, from what, and where."""

    spec: ModelSpec
    """The model."""
    trainer: type[Trainer]
    """How it learns."""
    dataset: DatasetSpec
    """Layout of the data."""
    root: Path | None
    """Their folder; None for the layout's default."""
    name: str
    """Of the run, for its folder."""
    settings: RunSettings
    """Resolved."""
    framing: Framing
    """How a picture becomes what the detector sees."""
    trackers: tuple[type[Tracker], ...]
    """Who is told how it goes beside the log."""
    world: World
    """The processes that learn together."""
    device: torch.device
    """Where."""
    precision: Precision
    """Of frozen networks."""
    progress: Progress
    """Where to show how far it is."""

    def setup(self) -> Setup:
        """What the trainer is told of the run."""
        settings = self.settings
        return Setup(
            img_size=self.framing.size,
            normalize=settings.normalize,
            num_epochs=settings.num_epochs,
            num_steps=settings.num_steps,
            batch_size=settings.batch_size,
            seed=settings.seed,
            weights=settings.weights,
            device=self.device,
            precision=self.precision,
            progress=self.progress,
            looked_at=self.framing.looked_at,
        )

    def config(self, data: RunData) -> ModelConfig:
        """What the model says of itself, before it is calibrated."""
        return ModelConfig(
            model=self.spec.name,
            options=self.settings.options,
            framing=self.framing,
            normalize=self.settings.normalize,
            precision=self.precision,
            categories=tuple(dict.fromkeys(sample.category for sample in data.samples)),
            calibration=None,
            calibrated_on=None,
            white_level=data.white,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """The pictures of a run and what is known of them before learning."""

    samples: Sequence[Sample]
    """All."""
    learning: Sequence[Sample]
    """To learn from: good ones, and defective ones for a trainer that wants them."""
    held_out: Sequence[Sample]
    """Good ones to calibrate with."""
    choosing: Sequence[Sample]
    """Good ones that the trainer chooses or scales by, and nothing else."""
    folds: Sequence[Sequence[int]]
    """Numbers of those to learn from, in the folds of cross-fitting; none without it."""
    test: Sequence[Sample]
    """To test with."""
    white: int | None
    """The value that is white in pictures of more than 8 bits; see `ad.runtime.pictures.levels`."""
    read: Mapping[str, Any]
    """What was read as what, for the record."""
    notes: tuple[str, ...]
    """What a user should know."""


def settle(
    dataset_type: str,
    category: str,
    model_type: str,
    *,
    data_root: str | Path | None,
    track: Sequence[str],
    progress: Progress,
    **given: Any,  # noqa: ANN401 - checked by `run_settings`
) -> Plan:
    """Check what a user asks for, and find what it stands for; see `ad.core.train`.

    Raises:
        AdError: One of its kinds, if it cannot work.
    """
    _check_kinds(dataset_type, category, model_type, track)
    spec = ModelRegistry.get(model_type)
    trainer = load_trainer(spec)
    dataset = get_dataset(dataset_type)
    title = category
    category, root = locate(dataset, category, data_root)
    if data_root is None and dataset.path_as_category and root is not None:
        title = root.name  # the category was given as a folder
    settings = run_settings(
        spec,
        trainer,
        dataset=dataset_type,
        category=category,
        data_root=None if root is None else str(root),
        **given,
    )
    trackers = tuple(get_tracker(name) for name in dict.fromkeys(track))
    world = join_world()
    device = resolve_device(settings.device)
    return Plan(
        spec=spec,
        trainer=trainer,
        dataset=dataset,
        root=root,
        name=f"{dataset_type}-{title}-{spec.name}",
        settings=settings,
        framing=settings.framing(),
        trackers=trackers,
        world=world,
        device=device,
        precision=resolve_precision(settings.precision, device),
        progress=progress,
    )


def _check_kinds(dataset: object, category: object, model: object, track: object) -> None:
    """Refuse from Python what a command line cannot say, before it is looked for by its parts.

    Raises:
        SettingError: If one is of another kind than a name, or names.
    """
    found = None
    if not isinstance(dataset, str):
        found = "dataset_type", "a name, such as `mvtec`", dataset
    elif not isinstance(category, str | Path):
        names = "a name, `all`, or several with commas between them, such as `bottle,cable`"
        found = "category", names, category
    elif not isinstance(model, str):
        found = "model_type", "a name, such as `patchcore`", model
    elif isinstance(track, str):
        found = "track", f"a list of names, such as `[{track!r}]`", track
    if found:
        name, what, given = found
        msg = f"`{name}` takes {what}; got {shown(given)}."
        raise SettingError(msg)


def build(plan: Plan) -> Trainer:
    """Build what learns.

    Raises:
        AdError: One of its kinds, if it cannot be: for its options, the pictures' size, weights
            that cannot be found, a package that is not installed.
    """
    with fits_in_memory(plan.spec.name):
        trainer = made(plan.trainer, plan.setup(), plan.settings.options)
    check_localises(trainer.detector, plan.framing, plan.spec.name)
    return trainer


def _supervise(plan: Plan, trainer: Trainer) -> Plan:
    """Have the data hand over labelled defective pictures if the trainer learns from them.

    Raises:
        SettingError: If they were asked for, and the layout has none; or if it lends them only
            when asked, and the trainer needs them.
    """
    dataset, settings = plan.dataset, plan.settings
    if settings.supervised and dataset.labelled is None:
        msg = (
            f"`supervised` has no meaning for the layout `{dataset.name}`, which has no labelled "
            f"defective pictures to learn from. {_WHERE_DEFECTS_ARE}"
        )
        raise SettingError(msg)
    if trainer.learns_from_defects and plan.framing.tiling is not None:
        msg = (
            f"`{plan.spec.name}` learns from labelled defects of whole pictures, and is given no "
            "tiles. Leave `tile` out and see pictures in more pixels (`img_size`), or take a model "
            "that learns from good pictures alone."
        )
        raise SettingError(msg)
    if not trainer.learns_from_defects or settings.supervised:
        return plan
    if dataset.labelled is None or dataset.lends_defects:
        lent = " unless it is asked for" if dataset.lends_defects else ""
        hint = (
            "\nhint: `--supervised` (`supervised=True` in Python) takes 80 % of each kind of "
            "defect to learn from; the others are tested with"
            if dataset.lends_defects
            else ""
        )
        msg = (
            f"{_needs_defects(plan)}, and the layout `{dataset.name}` hands over none{lent}. "
            f"{_WHERE_DEFECTS_ARE}{hint}"
        )
        raise SettingError(msg)
    return replace(plan, settings=settings.model_copy(update={"supervised": True}))


def share_pictures(plan: Plan, trainer: Trainer) -> tuple[Plan, RunData]:
    """Find a run's pictures, and say what each is for; none is opened.

    Returns:
        The plan, with `RunSettings.holdout` and `RunSettings.supervised` settled, and the data,
        of which nothing is known yet that the pictures show.

    Raises:
        DataError: If the data cannot be learnt from.
        SettingError: If nothing is left to learn from, or labelled defects are wanted and the
            layout has none.
        OutputError: If the disk has no room for maps that do not fit into memory.
    """
    plan = _supervise(plan, trainer)
    settings = plan.settings
    samples = collect(
        plan.dataset,
        settings.category,
        root=plan.root,
        seed=settings.seed,
        labelled=settings.supervised,
        progress=plan.progress,
    )
    plan = _settle_holdout(plan, samples)
    holdout = plan.settings.holdout
    assert holdout != "auto"  # it is settled
    learning, held_out = hold_out(samples, holdout, settings.seed)
    folds = folds_of(learning, settings.seed) if holdout == CROSS else []
    defects = defects_to_learn(samples)
    unused = []
    choosing: list[Sample] = []
    if isinstance(trainer, GradientTrainer) and trainer.uses_held_out() and held_out:
        choosing, held_out = share_out(held_out, settings.seed)
        if not choosing:
            unused.append(
                f"Good pictures that were held out: {len(held_out)} to set the threshold, and none "
                f"was left for `{plan.spec.name}` to choose its best epoch or its scale by, which "
                "went as without a hold-out. Hold out more: `--holdout 0.3` (`holdout=0.3` in "
                "Python)."
            )
    validation = sum(sample.split == "validation" for sample in samples)
    if folds and validation:
        unused.append(
            f"{counted(validation, 'validation picture was', 'validation pictures were')} left "
            "out: with `holdout` cross the threshold is set with those to learn from."
        )
    if trainer.learns_from_defects and not defects:
        msg = (
            f"{_needs_defects(plan)}, and `{plan.root}` has none among those to train on. "
            f"{_WHERE_DEFECTS_ARE}"
        )
        raise DataError(msg)
    if trainer.learns_from_defects:
        learning += defects
    elif defects:
        unused.append(
            f"{counted(len(defects), 'defective picture', 'defective pictures')} to train on "
            f"{'was' if len(defects) == 1 else 'were'} left out: "
            f"`{plan.spec.name}` learns from good ones alone."
        )
    test = [sample for sample in samples if sample.split == "test"]
    budget = memory_budget()  # what cannot be is refused before hours of learning
    if trainer.detector.localises:
        maps_beyond(budget, test, plan.framing)
    return plan, RunData(
        samples=samples,
        learning=learning,
        held_out=held_out,
        choosing=choosing,
        folds=folds,
        test=test,
        white=None,
        read={},
        notes=tuple(unused),
    )


def look_at_data(plan: Plan, trainer: Trainer) -> tuple[Plan, RunData]:
    """Find a run's pictures, tell what was read as what, and check them.

    Returns:
        The plan and the data; see `share_pictures`.

    Raises:
        DataError: If the data cannot be learnt from.
        PictureError: If a picture or mask cannot be opened.
        SettingError: If nothing is left to learn from.
        OutputError: If the disk has no room for maps that do not fit into memory.
    """
    plan, data = share_pictures(plan, trainer)
    samples, progress = data.samples, plan.progress
    inventory = take_inventory(plan.dataset, plan.root, samples)
    if plan.world.main:
        for line in inventory.read_as():
            progress.tell(line)
        if left_out := inventory.not_read(_NAMED):
            progress.tell(f"left out: {left_out}")
    # Held out, a copy of a picture to learn from is as bad as one to test with.
    held = {sample.path for sample in (*data.held_out, *data.choosing)}
    apart = [replace(s, split="validation") if s.path in held else s for s in samples]
    odd = [
        *check_pictures(apart, stretched=plan.framing.stretches, progress=progress),
        *copies_in_folds(data.learning, data.folds),
    ]
    for sample in samples:
        plan.framing.check(sample.path)
    lost = plan.framing.lost(data.learning[0].path) if data.learning else None
    white = find_white_level([sample.path for sample in samples], progress=progress)
    return plan, replace(
        data,
        white=white.value,
        read=inventory.to_json(),
        notes=(
            *data.notes,
            *white.notes,
            *inventory.notes(),
            *odd,
            *([] if lost is None else [lost]),
        ),
    )


def _settle_holdout(plan: Plan, samples: Sequence[Sample]) -> Plan:
    """Choose between a hold-out and cross-fitting where that was left open, and say so."""
    settings = plan.settings
    if settings.holdout != "auto":
        return plan
    chosen: Holdout = DEFAULT_HOLDOUT
    good = sum(sample.split == "train" and sample.label == 0 for sample in samples)
    validation = any(sample.split == "validation" for sample in samples)
    if issubclass(plan.trainer, OnePassTrainer) and good <= _FEW and not validation:
        _, held_out = hold_out(samples, DEFAULT_HOLDOUT, settings.seed)
        if too_few(len(held_out), settings.false_alarms):
            chosen = CROSS
            if plan.world.main:
                plan.progress.tell(
                    f"few good pictures: the threshold is set with all {good}, each scored by a "
                    "detector that has not seen it (`--holdout cross`)"
                )
    return replace(plan, settings=settings.model_copy(update={"holdout": chosen}))


_WHERE_DEFECTS_ARE = (
    "`ksdd2`, `dagm`, `real-iad` and `csv` bring them, and `folder` lends them with `--supervised`."
)


def _needs_defects(plan: Plan) -> str:
    return f"`{plan.spec.name}` as it is set learns from labelled defective pictures, too"
