"""What a result was computed with: goes into every record, since float32 results differ in the last bits between machines."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from apibench import __version__

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Versions of apibench and of the libraries that pixels depend on."""
    found = {"apibench": __version__}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def machine(device: str) -> dict[str, Any]:
    """Versions, device and thread count, as fields of an image record."""
    from apibench._torch import torch

    return {"versions": versions(), "device": device, "threads": torch.get_num_threads()}
