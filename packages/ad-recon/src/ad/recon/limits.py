"""What a run of this family must be, and what it should be: pictures as they are, steps enough."""

from __future__ import annotations

from ad.core import Setup
from ad.core.errors import SettingError


def check_plain(setup: Setup, model: str) -> None:
    """Check that pictures are left in [0, 1].

    Args:
        setup: What the run sets.
        model: The model's name, for a person.

    Raises:
        SettingError: If they are to be normalised.
    """
    if setup.normalize:
        msg = (
            f"`normalize` of {model} must be off: it rebuilds pictures as they are, in [0, 1]. "
            "Leave it out."
        )
        raise SettingError(msg)


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
