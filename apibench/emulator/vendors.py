"""The vendors that can be emulated, and what is needed to speak each one's protocol.

The gRPC services' message classes are those of the vendors' own packages, loaded by name when a vendor is served: whoever has
not installed a vendor's SDK has nothing to ask its emulator with either.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from apibench.emulator.wire import Wire
from apibench.errors import ApibenchError

T = TypeVar("T")
OTHERS = "*"  # in a mapping by provider: those that it does not name
# What is accepted where keys are checked and none are given: fixed, fake, and what apibench's own adapters send when emulated.
FAKE_KEYS = {
    "aws": frozenset({"EMULATED:emulated"}),
    "azure": frozenset({"EMULATED"}),
    "clarifai": frozenset({"EMULATED"}),
    "google": frozenset({"EMULATED"}),
}


@dataclass(frozen=True)
class Vendor:
    """``module`` has a function ``wires``; ``needs`` are packages that have to be installed, ``extra`` what brings them."""

    title: str
    module: str
    needs: tuple[str, ...] = ()
    extra: str = ""


VENDORS = {
    "aws": Vendor("AWS Rekognition", "rekognition"),
    "azure": Vendor("Azure Computer Vision", "computervision"),
    "clarifai": Vendor("Clarifai", "clarifai", ("grpc", "clarifai_grpc"), "clarifai-lean"),
    "google": Vendor("Google Cloud Vision", "cloudvision", ("grpc", "google.cloud.vision"), "google"),
}


def available() -> tuple[str, ...]:
    """The vendors whose packages are installed."""
    return tuple(name for name, vendor in VENDORS.items() if not _missing(vendor))


def check(providers: Collection[str]) -> None:
    """Raises ApibenchError naming a provider that is not, or cannot be, emulated."""
    for name in providers:
        if name not in VENDORS:
            raise ApibenchError(f"emulator: no provider {name}; there are {', '.join(VENDORS)}")
        if missing := _missing(VENDORS[name]):
            extra = VENDORS[name].extra
            raise ApibenchError(
                f"emulator: {name} needs the package {missing}; apibench's extra '{extra}' brings it: pip install '.[{extra}]'"
            )


def wires(providers: Collection[str], accepted_keys: Mapping[str, Collection[str]] | None = None) -> tuple[Wire, ...]:
    """The protocols of these vendors; of a provider without ``accepted_keys`` any key is taken.

    Raises ApibenchError as :func:`check` does.
    """
    check(providers)
    found: list[Wire] = []
    for name in providers:
        module = importlib.import_module(f"apibench.emulator.{VENDORS[name].module}")
        found += module.wires((accepted_keys or {}).get(name))
    return tuple(found)


def each(given: T | Mapping[str, T], providers: Collection[str]) -> dict[str, T]:
    """What holds for each provider: one thing for all, or a mapping by provider, with ``*`` for those it does not name.

    A provider that neither names is not in the result. Raises ApibenchError for a provider that cannot be emulated.
    """
    if not isinstance(given, Mapping):
        return dict.fromkeys(providers, given)
    check([name for name in given if name != OTHERS])
    chosen = {name: given.get(name, given.get(OTHERS)) for name in providers}
    return {name: one for name, one in chosen.items() if one is not None}


def split(entries: Iterable[str]) -> dict[str, list[str]]:
    """The command line's ``VALUE`` (for all others) and ``PROVIDER=VALUE``, by provider: ``google=30`` and ``30``."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        own = bool(equals) and name in VENDORS
        found.setdefault(name if own else OTHERS, []).append(value if own else entry)
    return found


def _missing(vendor: Vendor) -> str | None:
    for package in vendor.needs:
        try:
            if importlib.util.find_spec(package) is None:
                return package
        except ModuleNotFoundError:  # a parent of it is not there
            return package
    return None
