"""`ad demo`: the whole way on pictures made on the spot, without any download."""

from __future__ import annotations


def demo() -> None:
    """Make pictures, train on them, test, and write heat maps to look at. Works offline.

    Example: [bold]ad demo[/bold]
    """
