"""Who is told how learning goes, and may end it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final

from ad.core.errors import PluginError
from ad.runtime.errors import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """How far learning is."""

    epoch: int
    """The epoch, counted from 0."""
    step: int
    """Steps that are done; for a model that learns in one pass, batches."""
    total_steps: int
    """Steps there will be."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Loss terms: of the step after a batch, their mean over the epoch after an epoch."""
    monitor: float | None = None
    """Mean of `GradientTrainer.monitor` after the epoch; None if it was not taken."""


class Callback:
    """Told how learning goes; override what you want to hear.

    Of several processes the first one's callbacks are told. A model that learns in one pass has
    a start and an end, and no epochs.
    """

    vital: ClassVar[bool] = True
    """Whether learning ends when it fails; if not, there is a warning and it is told no more."""

    def on_fit_start(self, state: LoopState) -> None:
        """Before the first step, or the first one after resuming."""

    def on_epoch_start(self, state: LoopState) -> None:
        """Before an epoch's first step, or the first one after resuming in the middle of it."""

    def on_batch_end(self, state: LoopState) -> None:
        """After each step."""

    def on_epoch_end(self, state: LoopState) -> Literal["stop"] | None:
        """After each epoch; ``"stop"`` ends learning."""
        return None

    def on_fit_end(self, state: LoopState) -> None:
        """After the last step, when the detector is fitted."""

    def on_exception(self, error: BaseException) -> None:
        """When learning ends by an error, a signal among them."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, before `on_fit_start` of a resumed run."""


def checked_callbacks(given: object) -> list[Callback]:
    """What a user gave as callbacks, as a list.

    Raises:
        PluginError: If it is no list of them, or one of them is none.
    """
    if isinstance(given, Callback) or not isinstance(given, Iterable):
        msg = (
            "`callbacks` takes a list of `ad.core.Callback`, such as `callbacks=[Watch()]`; got "
            f"{shown(given)}."
        )
        raise PluginError(msg)
    found = list(given)
    for callback in found:
        if not isinstance(callback, Callback):
            msg = f"A callback must be an `ad.core.Callback`; got `{type(callback).__name__}`."
            raise PluginError(msg)
    return found


@final
class Callbacks(list[Callback]):
    """All that are told."""

    def tell(self, hook: str, *values: object) -> list[Any]:
        """Call a method of each, in order.

        Args:
            hook: Its name.
            values: Its arguments.

        Returns:
            What they answered, if anything.
        """
        answers = (self._ask(callback, hook, *values) for callback in list(self))
        return [answer for answer in answers if answer is not None]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of them, by their types and numbers, which `restore` knows."""
        found = {name: self._ask(callback, "state_dict") for name, callback in self._named()}
        return {name: state for name, state in found.items() if state}

    def restore(self, states: Mapping[str, Any]) -> None:
        """Give back what `state` gave; a resumed run may have other callbacks beside them."""
        for name, callback in self._named():
            if name in states:
                self._ask(callback, "load_state_dict", states[name])

    def _named(self) -> list[tuple[str, Callback]]:
        types = [type(callback).__qualname__ for callback in self]
        names = [f"{one} {types[:place].count(one)}" for place, one in enumerate(types)]
        return list(zip(names, self, strict=True))

    def _ask(self, callback: Callback, hook: str, *values: object) -> Any:  # noqa: ANN401
        """Call a method; None if it failed and that is not vital."""
        try:
            return getattr(callback, hook)(*values)
        except Exception as error:
            if callback.vital:
                raise
            warnings.warn(
                f"`{type(callback).__name__}` failed and is told no more; the run goes on. "
                f"{type(error).__name__}: {error}",
                stacklevel=3,
            )
            self.remove(callback)
            return None
