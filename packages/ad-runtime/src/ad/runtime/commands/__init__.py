"""Commands of `ad-runtime` with more to them than a call; `ad` has them, too."""
