"""The four products that can be drawn, and what can be wrong with them."""

from __future__ import annotations

DEFECTS: dict[str, tuple[str, ...]] = {
    "fabric": ("hole", "missing_yarn", "pulled_yarn", "stain"),
    "metal": ("dent", "pits", "scratch", "stain"),
    "wood": ("crack", "hole", "scratch", "stain"),
    "tray": ("broken_part", "misprint", "missing_part", "scratch", "stain", "turned_part"),
}
"""Kinds of defects by category."""

CATEGORIES: tuple[str, ...] = tuple(DEFECTS)
"""What can be shown."""
