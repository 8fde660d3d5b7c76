"""FrEIA, imported: its one warning is silenced here and nowhere else, and it brings no scipy.stats.

Python warns of an invalid escape in a docstring of FrEIA 0.2 whenever it compiles that file: in a
fresh installation, or where compiled files cannot be kept. Where warnings are errors, the import
would fail. scipy.stats takes most of a second, and FrEIA imports it for one kind of permutation,
which no model here has. Every module of this family takes FrEIA from here.
"""

from __future__ import annotations

import contextlib
import sys
import types
import warnings
from collections.abc import Iterator
from typing import final


@final
class _Later:
    """`scipy.stats.special_ortho_group`, imported when something of it is asked for."""

    def __getattr__(self, name: str) -> object:
        from scipy.stats import special_ortho_group

        return getattr(special_ortho_group, name)


@contextlib.contextmanager
def _without_statistics() -> Iterator[None]:
    """Let FrEIA have `_Later` in the place of what it imports of scipy.stats."""
    if "scipy.stats" in sys.modules:
        yield
        return
    stand_in = types.ModuleType("scipy.stats")
    stand_in.special_ortho_group = _Later()  # type: ignore[attr-defined]
    sys.modules["scipy.stats"] = stand_in
    try:
        yield
    finally:
        del sys.modules["scipy.stats"]


with warnings.catch_warnings(), _without_statistics():
    # DeprecationWarning until Python 3.11, SyntaxWarning since; 3.14 words it the second way.
    warnings.filterwarnings(
        "ignore",
        message=r"invalid escape sequence '\\m'|\"\\m\" is an invalid escape sequence",
        module=r".*FrEIA\W+modules\W+all_in_one_block$",
    )
    from FrEIA import framework as framework
    from FrEIA import modules as modules
