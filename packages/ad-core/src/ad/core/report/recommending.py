"""Which model of a bench to take: as good as any that meets the limits, and the fastest of those.

What was measured goes in, words come out; nothing is read or scored here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

_ALIKE = 1.1
"""Times that differ by less than this factor are alike: a machine's own vary so much."""


Chance = bool | Literal["seeds"] | None
"""Whether a difference may be chance, of the pictures or of the seeds alone; None if not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model with its settings, as a bench has measured it."""

    label: str
    """Unlike that of any other."""
    auroc: float | None = None
    """Image AUROC, mean over seeds and categories; None if it is not known on all of these."""
    seconds: float | None = None
    """Of a test picture, on the slowest category; None if it is not known."""
    memory: float | None = None
    """Bytes, the most of any run; None if it is not known."""
    fit: float | None = None
    """Seconds to learn, on the slowest category; None if it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a model may cost; None for as much as it likes."""

    seconds: float | None = None
    """Of a picture."""
    memory: float | None = None
    """Bytes."""

    def __str__(self) -> str:
        """``50 ms a picture and 2 GB``; empty without limits."""
        parts = [
            None if self.seconds is None else f"{_ms(self.seconds)} a picture",
            None if self.memory is None else _gb(self.memory),
        ]
        return " and ".join(part for part in parts if part)

    def excess(self, one: Candidate) -> float:
        """How many times the limits it takes, as far as is known: met up to 1."""
        pairs = ((self.seconds, one.seconds), (self.memory, one.memory))
        taken = [value / limit for limit, value in pairs if limit is not None and value is not None]
        return max(taken, default=0.0)

    def unknown(self, one: Candidate) -> list[str]:
        """What there is a limit to and nobody has measured."""
        return [
            what
            for what, limit, value in (
                ("time a picture", self.seconds, one.seconds),
                ("memory", self.memory, one.memory),
            )
            if limit is not None and value is None
        ]

    def are_met(self, one: Candidate) -> bool:
        """Whether they are known to be."""
        return self.excess(one) <= 1 and not self.unknown(one)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What to take."""

    label: str | None
    """The model; None if none meets the limits."""
    nearest: str | None
    """Where none does, the model that misses them least; None if that is not known of any."""
    tied: tuple[str, ...]
    """Models within the limits that may be as good as the best of these, itself among them."""
    front: tuple[str, ...]
    """Models than which none is both faster and better, the fastest first; of all measured ones."""
    lines: tuple[str, ...]
    """It in words: what, why, what it costs, and what was not compared."""

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` tells of it."""
        return {
            "model": self.label,
            "nearest": self.nearest,
            "tied": list(self.tied),
            "front": list(self.front),
            "words": list(self.lines),
        }


def recommend(
    candidates: Sequence[Candidate],
    limits: Limits,
    *,
    may_be_equal: Callable[[Candidate, Candidate], Chance],
) -> Recommendation:
    """Choose a model.

    Of those within the limits that may be as good as the one with the highest figure, it is the
    fastest; of those alike in time, the one with the least memory. One that may be as good only
    since it is known so badly is not taken where another, known to be worse than the highest, has
    a higher figure than it in less time.

    Args:
        candidates: What there is, in any order.
        limits: What it may cost.
        may_be_equal: Whether the first one, whose figure is at least the second's, may be ahead
            by chance; None if that is not known.
    """
    known = [one for one in candidates if one.auroc is not None]
    fitting = [one for one in known if limits.are_met(one)]
    fitting.sort(key=lambda one: (-_auroc(one), one.label))
    front = _front(known)
    names = tuple(one.label for one in front)
    left_out = _left_out(candidates, limits)
    if not fitting:
        nearest = _nearest(known, limits)
        lines = (*_none(known, nearest, limits), *left_out)
        label = nearest.label if nearest else None
        return Recommendation(label=None, nearest=label, tied=(), front=names, lines=lines)
    best = fitting[0]
    chances = {one.label: may_be_equal(best, one) for one in fitting[1:]}
    tied = [best, *(one for one in fitting[1:] if chances[one.label])]
    unsure = [one for one in fitting[1:] if chances[one.label] is None]
    beaten = _beaten(tied, [one for one in fitting if one not in tied])
    worth = [one for one in tied if one.label not in beaten]
    chosen, cheapest = _cheapest(worth)
    lines = (
        f"Take {chosen.label}: {_why(chosen, cheapest, worth, chances, limits)}",
        *(
            f"{one.label} ({_auroc(one):.3f}, {_spent(one)}) may be as good, too, but "
            f"{_list([beaten[one.label]])} is both faster and better than that."
            for one in tied
            if one.label in beaten
        ),
        *_unsure(best, unsure),
        f"It costs {_costs(chosen)}.",
        *_beyond(known, fitting, limits),
        *_others(front, chosen, limits),
        *left_out,
    )
    return Recommendation(
        label=chosen.label,
        nearest=None,
        tied=tuple(one.label for one in tied),
        front=names,
        lines=lines,
    )


def _beaten(tied: Sequence[Candidate], untied: Sequence[Candidate]) -> dict[str, Candidate]:
    """Those that may be the best, and who beats them in time and figure and may not be."""
    return {
        one.label: other
        for one in tied
        for other in untied
        if _ALIKE * _seconds(other) < _seconds(one) and _auroc(other) > _auroc(one)
    }


def _cheapest(tied: Sequence[Candidate]) -> tuple[Candidate, str]:
    """The fastest, of those alike in time the one with the least memory; and in what it is so."""
    fastest = min(map(_seconds, tied))
    fast = [one for one in tied if _seconds(one) <= _ALIKE * fastest]
    chosen = min(fast, key=lambda one: (_memory(one), _seconds(one), -_auroc(one), one.label))
    if math.isinf(fastest):
        return chosen, "what any of them costs is not known"
    if len(fast) == 1:
        return chosen, "it is the fastest that may be as good"
    if math.isinf(_memory(chosen)):
        return chosen, "none that may be as good is faster"
    return chosen, "of the fastest that may be as good it takes the least memory"


def _front(known: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats in time or figure without losing in the other, fastest first."""
    front: list[Candidate] = []
    measured = [one for one in known if one.seconds is not None]
    for one in sorted(measured, key=lambda one: (_seconds(one), -_auroc(one), one.label)):
        if not front or _auroc(one) > _auroc(front[-1]):
            front.append(one)
    return front


def _why(
    chosen: Candidate,
    cheapest: str,
    tied: Sequence[Candidate],
    chances: Mapping[str, Chance],
    limits: Limits,
) -> str:
    within = f" within {limits}" if str(limits) else ""
    figure, highest = f"{_auroc(chosen):.3f}", f"{_auroc(tied[0]):.3f}"
    if not chances:
        return f"image AUROC {figure}; no other was compared{within}."
    by_seeds = chances.get(chosen.label) == "seeds"
    words = f"its image AUROC, {figure}, is "
    words += "" if figure == highest else "below " if by_seeds else "within chance of "
    words += f"the highest{within}"
    words += "" if figure == highest else f", {highest} of {tied[0].label}"
    if by_seeds:
        words += ", by more than chance of the pictures, but other seeds may turn that round"
    if len(tied) == 1:
        return f"{words}."
    others = ", ".join(f"{one.label} {_auroc(one):.3f}" for one in tied if one is not chosen)
    words += f", and {cheapest} ({others})."
    if len(tied) == 1 + len(chances):
        seeds, pictures = "more seeds", "more test pictures, or harder ones,"
        words += (
            f" Between these {len(tied)} no difference is more than chance: "
            f"{seeds if 'seeds' in chances.values() else pictures} would tell them apart."
        )
    return words


def _unsure(best: Candidate, unsure: Sequence[Candidate]) -> list[str]:
    """Those of which nobody knows whether they are behind by chance."""
    if not unsure:
        return []
    names = ", ".join(one.label for one in unsure)
    return [
        f"Whether {best.label} is ahead of {names} by chance is not known: no test on the same "
        "pictures with the same seed."
    ]


def _beyond(known: Sequence[Candidate], fitting: Sequence[Candidate], limits: Limits) -> list[str]:
    """Those with a higher figure that cost too much."""
    best = _auroc(fitting[0])
    over = [one for one in known if limits.excess(one) > 1 and _auroc(one) > best]
    over.sort(key=lambda one: (-_auroc(one), one.label))
    return [f"Higher, but beyond {limits}: {_list(over)}."] if over else []


def _others(front: Sequence[Candidate], chosen: Candidate, limits: Limits) -> list[str]:
    """The other best ones for their speed, within the limits."""
    rest = [one for one in front if one is not chosen and limits.are_met(one)]
    return [f"Nor is any both faster and better than {_list(rest)}."] if rest else []


def _none(known: Sequence[Candidate], nearest: Candidate | None, limits: Limits) -> list[str]:
    """What comes nearest, and what would have to give."""
    if not known:
        return ["No model has an image AUROC on all categories: nothing can be recommended."]
    if nearest is None:
        return [f"Of no model is it known whether it meets {limits}."]
    lines = [
        f"No model meets {limits}.",
        f"{nearest.label} comes nearest: image AUROC {_auroc(nearest):.3f}, {_costs(nearest)}.",
    ]
    gives = []
    if limits.seconds is not None and _seconds(nearest) > limits.seconds:
        gives.append(f"`--latency {_up(1000 * _seconds(nearest))}`")
    if limits.memory is not None and _memory(nearest) > limits.memory:
        gives.append(f"`--memory {_up(_memory(nearest) / 1e9)}`")
    lines.append(
        f"What would have to give: {' and '.join(gives)}; or the work: smaller pictures "
        "(`--img-size`), a smaller backbone, smaller batches (`--batch-size`), an exported model "
        "in another engine (`ad export`, `ad benchmark`)."
    )
    return lines


def _nearest(known: Sequence[Candidate], limits: Limits) -> Candidate | None:
    measured = [one for one in known if not limits.unknown(one)]
    return min(measured, key=lambda one: (limits.excess(one), -_auroc(one)), default=None)


def _left_out(candidates: Sequence[Candidate], limits: Limits) -> list[str]:
    """What could not be considered, and why."""
    lines = []
    for one in candidates:
        if one.auroc is None:
            lines.append(f"{one.label} was not compared: it has no image AUROC on all categories.")
        elif limits.excess(one) <= 1 and (unknown := limits.unknown(one)):
            lines.append(f"{one.label} was not compared: its {' and '.join(unknown)} is not known.")
    return lines


def _list(some: Sequence[Candidate]) -> str:
    return ", ".join(f"{one.label} ({_auroc(one):.3f}, {_spent(one)})" for one in some)


def _spent(one: Candidate) -> str:
    time = "time unknown" if one.seconds is None else _ms(one.seconds)
    return time if one.memory is None else f"{time}, {_gb(one.memory)}"


def _costs(one: Candidate) -> str:
    parts = [
        "a time a picture that is not known"
        if one.seconds is None
        else f"{_ms(one.seconds)} a picture",
        "memory that is not known" if one.memory is None else f"{_gb(one.memory)} of memory",
        "a time to learn that is not known" if one.fit is None else f"{_s(one.fit)} to learn",
    ]
    return ", ".join(parts)


def _auroc(one: Candidate) -> float:
    return -math.inf if one.auroc is None else one.auroc


def _seconds(one: Candidate) -> float:
    return math.inf if one.seconds is None else one.seconds


def _memory(one: Candidate) -> float:
    return math.inf if one.memory is None else one.memory


def _ms(seconds: float) -> str:
    return f"{_three(1000 * seconds)} ms"


def _gb(count: float) -> str:
    return f"{_three(count / 1e9)} GB"


def _s(seconds: float) -> str:
    return f"{_three(seconds)} s"


def _three(number: float) -> str:
    """Three digits, and no more after a whole hundred."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def _up(number: float) -> str:
    """The least number of two digits that is not below."""
    step = 10.0 ** (math.floor(math.log10(number)) - 1)
    return f"{math.ceil(number / step - 1e-9) * step:.10g}"
