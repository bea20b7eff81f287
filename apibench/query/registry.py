"""Providers by name, through the entry points ``apibench.providers``: anyone can add one in a package of their own.

A name may go on after a colon (``local:pypi:tf_efficientnet_lite2``): what follows is for the adapter's ``named`` to read.
"""

from __future__ import annotations

import difflib
import re
from importlib.metadata import entry_points
from typing import cast

from apibench.errors import ApibenchError
from apibench.query.contract import Adapter, ProviderInfo
from apibench.query.redact import redact

GROUP = "apibench.providers"


def names() -> list[str]:
    """The providers that have an adapter installed."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def adapter(name: str) -> Adapter:
    """Load a provider's adapter; its SDK is not imported yet. Raises ApibenchError naming what there is."""
    provider, colon, rest = name.partition(":")
    found = [point for point in entry_points(group=GROUP) if point.name == provider]
    if not found:
        close = difflib.get_close_matches(provider, names(), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ApibenchError(f"{name}: no adapter for this provider; there are {', '.join(names()) or 'none'}{hint}")
    try:
        loaded = found[0].load()
    except Exception as error:  # noqa: BLE001 - an adapter is somebody's package: it may fail to import in any way
        why = redact(f"{type(error).__name__}: {error}", most=140)
        raise ApibenchError(f"{provider}: its adapter cannot be loaded ({why})") from None
    if not colon:
        return cast(Adapter, loaded)
    if not hasattr(loaded, "named"):
        raise ApibenchError(f"{name}: {provider} takes nothing after a colon")
    return cast(Adapter, loaded.named(rest))


def origin_of(host: str, info: ProviderInfo, *, emulated: bool) -> str:
    """``live`` only if the host that the SDK resolved is the vendor's own; else ``emulated`` or ``custom``.

    ``local`` where there is no host at all: the answer is computed on this machine.
    """
    if emulated:
        return "emulated"
    if not host and not info.hosts:
        return "local"
    host = host.lower().rstrip(".")
    return "live" if any(re.fullmatch(own, host) for own in info.hosts) else "custom"
