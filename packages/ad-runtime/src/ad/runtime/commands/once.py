"""Options of a command line that are given twice: the last one would count, without a word."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection, Sequence
from typing import Any

from ad.runtime.errors import SHOWN


def given_twice(typed: Collection[Sequence[str]]) -> str | None:
    """Words against an option that is given several times, each with another value.

    Args:
        typed: Its values as they were typed: a name, and what stands behind it, if anything.

    Returns:
        The words; None for up to one value.
    """
    if len(typed) < 2:
        return None
    *before, last = map(_shown, typed)
    most = "one" if len(before) == 1 else "all but one"
    return f"{', '.join(before)} and {last} are given, and only one can count. Leave {most} out."


def _shown(words: Sequence[str]) -> str:
    text = " ".join([words[0], *map(shlex.quote, words[1:])])
    return f"`{text}`" if len(text) <= SHOWN else f"`{text[:SHOWN]}...`"


class Parser(argparse.ArgumentParser):
    """A parser of one command line, of which no option takes two values; the same one it may.

    So are those of its commands. None of the options is one to be repeated.
    """

    def __init__(self, *args: Any, **given: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **given)
        self._typed: dict[str, dict[object, Sequence[str]]] = {}

    # What stands behind an option passes here as it was typed; an action gets what was made of it.
    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:  # noqa: ANN401
        if action.option_strings:
            typed = self._typed.setdefault(action.dest, {})
            name = action.option_strings[0]
            typed.setdefault((action.const, *arg_strings), (name, *arg_strings))
            if reason := given_twice(typed.values()):
                self.error(reason)
        return super()._get_values(action, arg_strings)
