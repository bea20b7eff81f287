"""Defaults that several rooms share."""

from __future__ import annotations

ATTACK = "mi-di"

ENGINES = LOCAL, RAY = "local", "ray"  # where images are made; see apibench.engines

# Two classifiers to attack, and one that they do not include to answer in a vendor's place: all from PyPI packages.
SURROGATES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1")
TARGET = "tf_efficientnet_lite2"
