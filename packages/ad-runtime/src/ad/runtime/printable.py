"""Text that a terminal shows and does not obey. Torch-free.

Names of pictures, and all that stands in the files of a model, may come from anybody. Escape
sequences in them could colour, overwrite or hide what is told, and bidirectional overrides show
letters in another order than they have.
"""

from __future__ import annotations

import re

# Control characters but tab and line feed, and those that change the direction of writing.
_OBEYED = "\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069"
_IN_TEXT = re.compile(f"[{_OBEYED}]")
_IN_LINE = re.compile(f"[\\t\\n{_OBEYED}]")


def printable(text: str) -> str:
    """A text with what a terminal would obey spelt out in Python's way; lines stay lines."""
    return _IN_TEXT.sub(lambda found: ascii(found[0])[1:-1], text)


def in_one_line(name: object) -> str:
    """A name, such as a path's, as it can stand in a list: line breaks are spelt out too."""
    return _IN_LINE.sub(lambda found: ascii(found[0])[1:-1], str(name))


def escaped_json(text: str) -> str:
    """The same JSON, with what a terminal would obey written by its number."""
    return _IN_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
