"""Frozen networks and what is done to their maps."""
