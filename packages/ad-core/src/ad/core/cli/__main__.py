"""``python -m ad.core.cli``: the `ad` command, for launchers that start modules."""

from ad.core.cli import main

if __name__ == "__main__":
    main()
