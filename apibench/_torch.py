"""The one place torch is imported from: ``from apibench._torch import torch``.

Two things have to happen right after the import, before any tensor exists and before any thread starts:

* **Denormals are flushed to zero.** Weights and activations of EfficientNet-Lite and SqueezeNet fall into denormal floats,
  which a CPU computes tens of times slower (EfficientNet-Lite0 forward and backward: 5.0 s against 0.11 s). The switch is a
  flag of the *thread*; a new thread inherits it from the one that starts it, so setting it here, first, reaches all of them.
* **torchvision's missing operators are declared.** PyPI's torchvision is built for CUDA. Beside a CPU build of torch its
  extension does not load, and ``import torchvision`` (so ``import timm``) fails with ``operator torchvision::nms does not
  exist``. Declaring the schemas is enough: nothing here calls them. Where the extension loads, nothing is done.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path

import torch

torch.set_flush_denormal(True)

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# The library object owns the declarations: dropping it would drop them.
_declared: torch.library.Library | None = None


def _torchvision_extension_loads() -> bool:
    """True if torchvision's compiled operators load beside this torch (or torchvision is absent, and nothing is to do)."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return True
    folder = Path(spec.submodule_search_locations[0])
    names = ["_C" + suffix for suffix in importlib.machinery.EXTENSION_SUFFIXES] + ["_C.so", "_C.pyd", "_C.dylib"]
    for path in (folder / name for name in names):
        if path.exists():
            try:
                torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
            except OSError:
                return False
            return True
    return False


def _declare_torchvision_operators() -> None:
    global _declared
    if _torchvision_extension_loads() or hasattr(torch.ops.torchvision, "nms"):
        return
    _declared = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        _declared.define(schema)  # type: ignore[no-untyped-call]


_declare_torchvision_operators()

__all__ = ["torch"]
