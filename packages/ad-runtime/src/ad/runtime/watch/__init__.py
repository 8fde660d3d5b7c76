"""Pictures scored as they appear in a folder; a kill at any moment loses and repeats none."""
