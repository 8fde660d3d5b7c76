"""Pretrained features, adapted to good pictures: subspaces, spheres and a discriminator.

`ad.adapt.models` is the catalogue; each model is one file or folder.
"""
