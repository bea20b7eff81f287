"""The vendors that can be emulated, and what is needed to speak each one's protocol.

The gRPC services' message classes are those of the vendors' own packages, loaded by name when a vendor is served: whoever has
not installed a vendor's SDK has nothing to ask its emulator with either.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Collection
from dataclasses import dataclass

from apibench.emulator.wire import Wire
from apibench.errors import ApibenchError


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


def wires(providers: Collection[str], accepted_keys: Collection[str] | None) -> tuple[Wire, ...]:
    """The protocols of these vendors. Raises ApibenchError as :func:`check` does."""
    check(providers)
    found: list[Wire] = []
    for name in providers:
        found += importlib.import_module(f"apibench.emulator.{VENDORS[name].module}").wires(accepted_keys)
    return tuple(found)


def _missing(vendor: Vendor) -> str | None:
    for package in vendor.needs:
        try:
            if importlib.util.find_spec(package) is None:
                return package
        except ModuleNotFoundError:  # a parent of it is not there
            return package
    return None
