"""Exact likelihoods of deep features: what good pictures make likely, by normalising flows.

`ad.flow.models` is the catalogue; each model is one file or folder.
"""
