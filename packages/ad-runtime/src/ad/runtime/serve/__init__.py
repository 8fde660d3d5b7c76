"""Exported models behind HTTP: the Open Inference Protocol v2, and a page for people."""
