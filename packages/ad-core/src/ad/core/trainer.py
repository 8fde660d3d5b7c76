"""How a detector learns.

A trainer knows its model and nothing of data sets, files or the command line;
`ad.core.learning.loop` drives it. A new way of learning is a new abstract class here, not a flag.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ad.core.detector import Detector, mark_trained
from ad.core.errors import PluginError
from ad.core.options import checking_options
from ad.runtime.framing.size import Size, size_of
from ad.runtime.progress import SILENT, Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ad.core.data.learning import LearningBatch, LearningData

Precision = Literal["fp32", "bf16"]

FROM_MODEL_FILE = "from-model-file"
"""Value of `Setup.weights` while a saved model is loaded: it brings its own weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a run tells every trainer; all else are the model's own options."""

    img_size: Size
    """Height and width of the pictures; one number is taken for a square, and a pair for both."""
    normalize: bool
    """Whether pictures are normalised with ImageNet's mean and deviation inside the detector."""
    num_epochs: int = 1
    """How often each training picture is seen."""
    num_steps: int | None = None
    """How many batches are learnt from, in place of `num_epochs`; None for epochs."""
    batch_size: int = 8
    """Pictures in a training batch."""
    seed: int = 0
    """Seed of every random choice."""
    weights: str = "auto"
    """Where a backbone's weights come from: see `ad.core.networks.backbones`."""
    device: torch.device = torch.device("cpu")
    """Where the detector learns."""
    precision: Precision = "fp32"
    """Precision of frozen networks; statistics and distances are always fp32."""
    progress: Progress = SILENT
    """Where long work is shown."""
    looked_at: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)
    """``[H, W]``: pixels of the pictures that count, where there is a region of interest; None for
    all. A trainer that keeps cells of its own may leave out those that no such pixel hears of, see
    `ad.core.networks.cells_looked_at`; whoever scores cares for the rest."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "img_size", size_of(self.img_size))


class Trainer(abc.ABC):
    """Builds one detector and teaches it.

    The constructor builds the detector, unfitted and on ``setup.device``. Its keyword-only
    arguments after ``setup`` are the model's options. Whoever calls it, values are held to their
    annotations (`Literal`, `Annotated[int, Field(ge=1, le=64)]`, `tuple[str, ...]`, ...) before
    it runs, with a `SettingError` that says what is allowed; see `ad.core.options`.
    """

    detector: Detector

    def __init_subclass__(cls, **arguments: object) -> None:
        super().__init_subclass__(**arguments)
        if "__init__" in cls.__dict__:
            cls.__init__ = checking_options(cls.__init__)  # type: ignore[method-assign]

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    @property
    def learns_from_defects(self) -> bool:
        """Whether it wants labelled defective pictures among those that it learns from.

        Only a `GradientTrainer` can, whose batches then have `LearningBatch.truth`: labels, and
        masks where there are some. An epoch has each defective picture four times, as it is and
        flipped three ways, and as many good ones. It is not trained without any.
        """
        return False

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of this training: what it went without, and what that costs."""
        return ()

    @property
    def inputs(self) -> Mapping[str, str]:
        """What it learns from beyond the run's pictures: names and hashes.

        Such as a teacher's file or a folder of textures. A resumed run must have the same.
        """
        return {}


def made(kind: type[Trainer], setup: Setup, options: Mapping[str, Any]) -> Trainer:
    """Build a trainer, and see that it has what its base class promises.

    Raises:
        PluginError: If its constructor set no detector, or did not call that of its base class.
    """
    trainer = kind(setup, **options)
    if getattr(trainer, "setup", None) is not setup:
        msg = f"`{kind.__name__}.__init__` must begin with `super().__init__(setup)`."
        raise PluginError(msg)
    if not isinstance(getattr(trainer, "detector", None), Detector):
        msg = (
            f"`{kind.__name__}.__init__` must set `self.detector` to a `Detector` of `ad.core`, "
            "unfitted and on `setup.device`."
        )
        raise PluginError(msg)
    return trainer


class OnePassTrainer(Trainer):
    """Sees every normal picture once, then is done: memory banks, Gaussians, densities."""

    def begin(self, num_images: int) -> None:  # noqa: B027 - optional on purpose
        """Prepare for the pictures; called once, before the first batch.

        Args:
            num_images: How many pictures will be observed in all.
        """

    def extract(self, images: Tensor) -> Any:  # noqa: ANN401 - what `observe` of the model takes
        """What a frozen network says of a batch: the dear part, which several processes share.

        Args:
            images: ``[B, 3, H, W]``, float32 in [0, 1], on ``setup.device``. The last batch
                may be smaller.

        Returns:
            Tensors, or tuples of them; the pictures themselves by default.
        """
        return images

    @abc.abstractmethod
    def observe(self, features: Any) -> None:  # noqa: ANN401 - of the model's own shape
        """Take in one batch of normal pictures.

        Args:
            features: What `extract` said of them: the pictures themselves by default.
        """

    @abc.abstractmethod
    def conclude(self) -> None:
        """Turn what was observed into a fitted ``detector``."""

    def fit_folds(self, folds: Sequence[tuple[int, Iterator[Any]]]) -> Iterator[Detector] | None:
        """Fit a detector for each fold, to all the others, for a model that does them for less.

        Called of a fresh trainer, in place of all of the above. Each detector must be what a fresh
        trainer with the same settings learns from the other folds in their order: nothing that it
        gives may depend on its own fold, which is there to be scored by it.

        Args:
            folds: Of each how many pictures it has, and what `extract` says of them, batch by
                batch, to be gone through once at most.

        Returns:
            The detectors in the order of the folds; None, the default, to have each fitted by a
            trainer of its own.
        """
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimization:
    """One optimiser, what it minimises and how its learning rate changes."""

    optimizer: torch.optim.Optimizer
    """Of parameters that no other optimisation of the trainer has."""
    terms: tuple[str, ...] | None = None
    """Names of the losses whose sum is minimised; all, if None."""
    schedule: Callable[[int], float] = lambda step: 1.0
    """Step, counted from 0, to the factor on the initial learning rates. It must depend on
    nothing else, so that a resumed run needs no state of it."""
    clip_norm: float | None = None
    """Largest norm of all gradients together; None for no limit."""
    steps: range | None = None
    """The steps it is for, counted from 0, where learning has phases; None for all."""


class GradientTrainer(Trainer):
    """Learns by gradient descent, batch by batch.

    `ad.core.learning.loop` owns the order of pictures, precision, steps, checkpoints and resuming.
    What has to be random in `losses` comes from the batch's generators or from torch's global one,
    which is seeded for each step: both depend on seed, epoch, step and picture alone.
    """

    @classmethod
    def uses_held_out(cls) -> bool:
        """Whether it chooses or scales by good pictures that were held out.

        Half of them are then for that, and only the others set the threshold: a threshold promises
        nothing on pictures that the detector was chosen by. By default it does if it has its own
        `monitor`, `monitor_kept` or `conclude`; one whose `conclude` makes no use of ``held_out``
        says that it does not, and is then given none.
        """
        own = ("monitor", "monitor_kept", "conclude")
        return any(getattr(cls, name) is not getattr(GradientTrainer, name) for name in own)

    def modules(self) -> Mapping[str, nn.Module]:
        """Everything with a state that learning changes; the detector alone by default."""
        return {"detector": self.detector}

    def num_steps(self, num_images: int) -> int:
        """How many batches are learnt from; from the setup by default, 0 to `prepare` only.

        Args:
            num_images: How many pictures an epoch has.
        """
        if self.setup.num_steps is not None:
            return self.setup.num_steps
        return self.setup.num_epochs * math.ceil(num_images / self.setup.batch_size)

    def num_updates(self) -> int:
        """How many updates each batch gives, one after another; 1 by default.

        For what learns from a batch in parts, such as from some thousand positions at a time:
        `losses` is asked for each part in turn, which `LearningBatch.update` tells, and may then
        name other terms for other parts. It must be the same for all batches, small ones, too.
        """
        return 1

    def frozen(self, images: Tensor) -> Sequence[Tensor]:
        """What frozen networks say of pictures that are not augmented; nothing by default.

        It is computed once per picture where it can be kept, and given to `losses` as
        `LearningBatch.frozen`.

        Args:
            images: ``[B, 3, H, W]``, float32 in [0, 1].

        Returns:
            Tensors ``[B, ...]``.
        """
        return ()

    def begin(self, data: LearningData) -> None:  # noqa: B027 - optional on purpose
        """Take note of the pictures; called once, before all else, of a resumed run too.

        For what a trainer needs of them all while it learns, such as parts of other pictures.

        Args:
            data: What will be learnt from, all of it in every process.
        """

    def prepare(self, data: LearningData) -> None:
        """Learn what must be known before the first step, such as statistics of a teacher.

        Results belong into buffers of `modules`: a resumed run is not prepared again. By default
        there is nothing to know, and a detector with a `trained_flag` gets it set.
        """
        mark_trained(self.detector)

    @abc.abstractmethod
    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """Compute the loss terms of one update: of one batch, or a part of it.

        Called in autocast where the run's precision is bf16: compute the terms themselves in
        float32.

        Returns:
            Names and scalars.
        """

    @abc.abstractmethod
    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """Make the optimisers; called once, after `prepare`.

        Args:
            total_steps: How many steps there will be: what schedules are scaled to.
        """

    def monitor(self, images: Tensor) -> Tensor | None:
        """How badly good pictures that were held out are reproduced; lower is better.

        After each epoch the mean over the held-out pictures is taken, and the epoch where it
        was lowest is kept. None, the default, keeps the last one.

        Args:
            images: ``[B, 3, H, W]``, float32 in [0, 1].

        Returns:
            ``[B]``.
        """
        return None

    def monitor_kept(self, batch: LearningBatch) -> Tensor | None:
        """What `monitor` says, for who needs of pictures only what frozen networks say of them.

        With this in place of `monitor`, that is kept of held-out pictures, too.

        Returns:
            ``[B]``.
        """
        return self.monitor(batch.images)

    def conclude(  # noqa: B027 - optional on purpose
        self, data: LearningData, held_out: LearningData | None
    ) -> None:
        """Finish after the last step, such as with the scale of maps.

        Args:
            data: What was learnt from.
            held_out: Good pictures that were not, and do not set the threshold; None if there are
                none, or it does not use them.
        """


def budget_note(model: str, steps: int, enough: int, authors: str = "") -> tuple[str, ...]:
    """What a user should know of a run that is too short; nothing of one that is not.

    Args:
        model: The model's name, for a person.
        steps: How many were taken.
        enough: From how many on its figures begin to mean what the method can do.
        authors: What its authors took, in a few words; empty if there are none.
    """
    if steps >= enough:
        return ()
    theirs = f" (its authors took {authors})" if authors else ""
    return (
        f"{model} took {steps:,} steps and needs about {enough:,}{theirs}: what it finds says "
        f"little of what it can find. `--steps {enough}` takes them.",
    )
