"""A model and a run as files: written whole or not at all, read within limits, by one at a time."""
