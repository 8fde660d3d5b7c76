"""The model under test: trained on tiny pictures, with note taken of all that it does.

It knows how to get from a model what `ad.core.testing.promises` asks about, each only once and
only when asked; it judges nothing.
"""

from __future__ import annotations

import contextlib
import io
import math
import socket
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any, NoReturn, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ad.core.callbacks import Callback, LoopState
from ad.core.data.batches import to_device
from ad.core.detector import Detector, Prediction
from ad.core.framing import Framing
from ad.core.learning.checkpoints import Checkpoints
from ad.core.learning.cross_fitting import cross_fitted
from ad.core.learning.loop import fit
from ad.core.registry import ModelSpec, load_trainer
from ad.core.settings import resolve_options
from ad.core.testing.pictures import make_picture
from ad.core.trainer import GradientTrainer, OnePassTrainer, Setup, Trainer, made
from ad.runtime.framing.size import Sides, Size, size_of
from ad.runtime.pictures.reading import Source


@final
class Model:
    """A model, tiny pictures, and what it learnt of them."""

    def __init__(
        self, spec: ModelSpec, *, img_size: Sides, options: Mapping[str, Any], num_epochs: int
    ) -> None:
        self.spec = spec
        self.trainer_class = load_trainer(spec)
        self.module = self.trainer_class.__module__
        self.options = resolve_options(spec, self.trainer_class, options)
        self.framing = Framing(size=size_of(img_size))
        self.num_epochs = num_epochs
        self.by_gradient = issubclass(self.trainer_class, GradientTrainer)
        # Most see a blatant defect after a few epochs, and need not go on.
        shorter = (math.ceil(num_epochs / 10), math.ceil(num_epochs / 3), num_epochs)
        self.epochs = sorted({*shorter}) if self.by_gradient else [1]
        size = self.framing.size
        self.good = [make_picture(index, size=size)[0] for index in range(12)]
        self.fresh = [make_picture(100 + index, size=size)[0] for index in range(4)]
        # Of a wide picture in the right third: a map with height and width exchanged misses it.
        left = 2 * size.width // 3 if size.width > size.height else 0
        broken = ((index, *make_picture(index, size=size, defect=True)) for index in count(200))
        far = (one for one in broken if one[2].argmax(axis=1).max() >= left)
        numbers, self.bad, self.masks = zip(*islice(far, 4), strict=True)
        self.unbroken = [make_picture(index, size=size)[0] for index in numbers]
        self.images = self.images_of([*self.fresh, *self.bad])
        self.seen = _Seen()

    def images_of(self, pictures: Sequence[Source]) -> Tensor:
        """Pictures as a detector takes them."""
        (batch,) = self.framing.pictures(pictures).batches(len(pictures))
        return to_device(batch.pictures, torch.device("cpu"))

    def build(self, weights: str = "random", num_epochs: int = 1) -> Trainer:
        """A fresh trainer."""
        setup = Setup(
            img_size=self.framing.size,
            normalize=self.spec.train["normalize"],
            num_epochs=num_epochs,
            batch_size=4,
            weights=weights,
        )
        return made(self.trainer_class, setup, self.options)

    def learn(
        self,
        num_epochs: int,
        checkpoints: Checkpoints | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Detector:
        """A detector that has learnt from the good pictures."""
        trainer = self.build(num_epochs=num_epochs)
        self.teach(trainer, self.good, checkpoints, callbacks)
        return trainer.detector

    def teach(
        self,
        trainer: Trainer,
        good: Sequence[Source],
        checkpoints: Checkpoints | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        """Have a trainer learn from good pictures, and from defective ones if it does.

        Of these, half have masks.
        """
        pictures, defects = list(good), dict[int, NDArray[np.bool_] | None]()
        if trainer.learns_from_defects:
            for index in range(4):
                picture, mask = make_picture(300 + index, size=self.framing.size, defect=True)
                defects[len(pictures)] = mask if index % 2 else None
                pictures.append(picture)
        fit(
            trainer,
            self.framing.pictures(pictures),
            defects=defects,
            checkpoints=checkpoints,
            callbacks=callbacks,
        )

    @cached_property
    def detector(self) -> Detector:
        """One that has learnt for the shortest time."""
        with self.seen.watching():
            return self.learn(self.epochs[0])

    @cached_property
    def whole(self) -> Prediction:
        """What it says of all test pictures at once."""
        with self.seen.watching():
            return predict(self.detector, self.images)

    @cached_property
    def again(self) -> Tensor:
        """Scores after learning the same once more."""
        return predict(self.learn(self.epochs[0]), self.images).score

    @cached_property
    def resumed(self) -> Tensor:
        """Scores after learning the same, killed in the second step and resumed."""
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            with contextlib.suppress(_Killed):
                every_step = Checkpoints(home, every_seconds=0)
                detector = self.learn(self.epochs[0], every_step, [_Kill()])
                return predict(detector, self.images).score  # it takes no steps
            later = Checkpoints(home, every_seconds=math.inf)
            return predict(self.learn(self.epochs[0], later), self.images).score

    @cached_property
    def ragged(self) -> Detector:
        """One that has learnt once from five pictures in batches of four."""
        trainer = self.build()
        self.teach(trainer, self.good[:5])
        return trainer.detector

    @cached_property
    def folds(self) -> list[tuple[Tensor, Tensor]]:
        """Scores of each third of the good pictures by a detector that has learnt from the others.

        By those that are fitted together, and by one that is fitted alone.
        """
        thirds = [self.good[at : at + 4] for at in (0, 4, 8)]  # a batch each
        sets = [self.framing.pictures(third) for third in thirds]
        scores = []
        for own, together in enumerate(cross_fitted(self._one_pass, sets)):
            alone = self._one_pass()
            self.teach(alone, self.good[: 4 * own] + self.good[4 * own + 4 :])
            images = self.images_of(thirds[own])
            scores.append((predict(together, images).score, predict(alone.detector, images).score))
        return scores

    def _one_pass(self) -> OnePassTrainer:
        trainer = self.build()
        assert isinstance(trainer, OnePassTrainer)
        return trainer

    @cached_property
    def able(self) -> tuple[Detector, Prediction]:
        """One that sees a blatant defect, or has learnt for as long as is allowed."""
        for num_epochs in self.epochs:
            first = num_epochs == self.epochs[0]
            detector = self.detector if first else self.learn(num_epochs)
            whole = self.whole if first else predict(detector, self.images)
            if self.sees(detector, whole) and self.finds(whole):
                break
        return detector, whole

    def wider(self) -> Model:
        """The same model with pictures that are 32 pixels wider than high, as most rules allow."""
        height = min(self.framing.size)
        size = Size(height, height + 32)
        return Model(self.spec, img_size=size, options=self.options, num_epochs=self.num_epochs)

    def sees(self, detector: Detector, whole: Prediction) -> bool:
        """Whether defects score higher than good pictures."""
        good, bad = whole.score[:4], whole.score[4:]
        if whole.map is None:
            # Who judges pictures as a whole need not see a small spot, but another product.
            bad = predict(detector, self.images_of([255 - one for one in self.fresh])).score
        return bool(bad.median() > good.max())

    def marks(self, whole: Prediction) -> bool:
        """Whether most defects change maps where they are, however little was learnt.

        Not all: at the very border a map may have nothing to say.
        """
        if whole.map is None:
            return True
        clean = predict(self.detector, self.images_of(self.unbroken)).map
        assert clean is not None
        changes = (whole.map[4:] - clean).abs()
        right = [
            bool(change[mask].mean() > change[~mask].mean())
            for change, mask in zip(changes, map(torch.from_numpy, self.masks), strict=True)
        ]
        return 2 * sum(right) > len(right)

    def finds(self, whole: Prediction) -> bool:
        """Whether maps are higher on defects than beside them."""
        return whole.map is None or all(
            bool(map_[mask].mean() > map_[~mask].mean())
            for map_, mask in zip(whole.map[4:], map(torch.from_numpy, self.masks), strict=True)
        )


def predict(detector: Detector, images: Tensor) -> Prediction:
    """What a detector says of a copy of ``images``, ``[B, 3, H, W]``, without gradients."""
    with torch.inference_mode():
        prediction: Prediction = detector(images.clone())
    return prediction


class _Killed(Exception):
    """In place of SIGKILL."""


class _Kill(Callback):
    """Dies after the second step, of which no checkpoint was saved yet."""

    def on_batch_end(self, state: LoopState) -> None:
        if state.step == 2:
            raise _Killed


_ODD_SEED = 8_191_131_071


class _Seen:
    """What a model did beside learning and predicting."""

    def __init__(self) -> None:
        self.random = False  # moved torch's global generator
        self.addresses: list[str] = []
        self.warnings: list[str] = []
        self.printed = ""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Take note, and let nothing out."""
        first = torch.random.get_rng_state()
        torch.manual_seed(_ODD_SEED)  # so that a model that seeds it as this run did is noticed
        before = torch.random.get_rng_state()
        connect, look_up = socket.socket.connect, socket.getaddrinfo
        out = io.StringIO()

        def refuse(address: object) -> NoReturn:
            self.addresses.append(str(address))
            msg = f"a model must learn and predict offline; it wants to reach {address}"
            raise OSError(msg)

        def refuse_connection(own: socket.socket, address: Any) -> None:  # noqa: ANN401
            if own.family not in (socket.AF_INET, socket.AF_INET6):
                connect(own, address)
            else:
                refuse(address)

        def refuse_name(host: object, *rest: object, **more: object) -> NoReturn:
            refuse(host)

        socket.socket.connect = refuse_connection  # type: ignore[method-assign,assignment]
        socket.getaddrinfo = refuse_name
        try:
            with (
                warnings.catch_warnings(record=True) as caught,
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(out),
            ):
                warnings.simplefilter("always")
                yield
        finally:
            socket.socket.connect = connect  # type: ignore[method-assign]
            socket.getaddrinfo = look_up
            self.warnings += [f"{one.category.__name__}: {one.message}" for one in caught]
            self.printed += out.getvalue()
            self.random |= not torch.equal(before, torch.random.get_rng_state())
            torch.random.set_rng_state(first)
