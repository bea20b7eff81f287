"""Purifiers: smooth an adversarial image before a classifier, or an API, sees it.

One contract (:class:`~apibench.purifiers.contract.Purifier`) and one registry: :func:`names` lists what there is,
:func:`create` makes one from its name.
"""

from apibench.purifiers.registry import create, names

__all__ = ["create", "names"]
