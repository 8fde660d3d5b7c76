"""What a command does, each readable on one page."""
