"""Defaults that several rooms share."""

from __future__ import annotations

# The strongest at epsilon 4 and 8 of those within twenty gradients of each surrogate an image: README.md, "Measured".
ATTACK = "ni-si:2-di"

ENGINES = LOCAL, RAY = "local", "ray"  # where images are made; see apibench.engines

# Two classifiers to attack, and one that they do not include to answer in a vendor's place: all from PyPI packages.
SURROGATES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1")
TARGET = "tf_efficientnet_lite2"
