"""Purifiers: smooth an adversarial image before a classifier, or an API, sees it.

One contract (:class:`~apibench.purifiers.contract.Purifier`) and one registry: :func:`names` lists what there is,
:func:`describe` says how each is written, :func:`create` makes one from its name, :func:`register` adds a :class:`Kind`.
"""

from apibench.parameters import Parameter
from apibench.purifiers.catalogue import Kind
from apibench.purifiers.registry import create, describe, names, register

__all__ = ["Kind", "Parameter", "create", "describe", "names", "register"]
