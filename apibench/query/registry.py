"""Providers by name, through the entry points ``apibench.providers``: anyone can add one in a package of their own."""

from __future__ import annotations

import difflib
import re
from importlib.metadata import entry_points
from typing import cast

from apibench.errors import ApibenchError
from apibench.query.contract import Adapter, ProviderInfo

GROUP = "apibench.providers"


def names() -> list[str]:
    """The providers that have an adapter installed."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def adapter(name: str) -> Adapter:
    """Load a provider's adapter; its SDK is not imported yet. Raises ApibenchError naming what there is."""
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ApibenchError(f"{name}: no adapter for this provider; there are {', '.join(names()) or 'none'}{hint}")
    try:
        return cast(Adapter, found[0].load())
    except Exception as error:  # an adapter is somebody's package: it may fail to import in any way
        raise ApibenchError(f"{name}: its adapter cannot be loaded ({type(error).__name__}: {error!s:.120})") from error


def origin_of(host: str, info: ProviderInfo, *, emulated: bool) -> str:
    """``live`` only if the host that the SDK resolved is the vendor's own; else ``emulated`` or ``custom``."""
    if emulated:
        return "emulated"
    host = host.lower().rstrip(".")
    return "live" if any(re.fullmatch(own, host) for own in info.hosts) else "custom"
