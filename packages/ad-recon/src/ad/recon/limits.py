"""What a run of this family must be: of pictures as they are."""

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
