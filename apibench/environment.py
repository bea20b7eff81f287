"""What a result was computed with: goes into every record, since float32 results differ in the last bits between machines."""

from __future__ import annotations

import platform
from collections import Counter, defaultdict
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from apibench import __version__

if TYPE_CHECKING:
    from apibench.imageset import ImageRecord

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
    """Versions, type of device and thread count, as fields of an image record."""
    from apibench._torch import torch

    kind = torch.device(device).type
    if kind == "cuda":
        model = torch.cuda.get_device_name(device)
    else:
        model = torch.backends.cpu.get_cpu_capability() if kind == "cpu" else platform.machine()  # AVX2, AVX512
    return {"versions": versions(), "device": f"{kind} ({model})", "threads": torch.get_num_threads()}


def differences(records: Iterable[ImageRecord]) -> list[str]:
    """In what the machines differ that a set was made on, a line each: then the last bits of its images may differ too.

    ``device: cpu (AVX2) for 30 images, cpu (AVX512) for 2``.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    total = 0
    for record in records:
        total += 1
        for name, value in {**record.versions, "device": record.device, "threads": record.threads}.items():
            counts[name][str(value)] += 1
    lines = []
    for name, values in sorted(counts.items()):
        if len(values) > 1 or values.total() < total:
            lines.append(
                f"{name}: " + ", ".join(f"{value} for {count} images" for value, count in values.most_common())
            )
    return lines
