"""apibench: how robust are the commercial image-labelling APIs, and does purifying the image first help?

The public names are imported when they are first used, so that ``import apibench`` takes no time, and neither torch nor an SDK.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apibench.api import (
        export_store,
        generate,
        open_images,
        providers,
        purify,
        query_images,
        read_answers,
        read_outcomes,
        run_recipe,
        verify_report,
        write_report,
    )
    from apibench.attacks.attack import Attack
    from apibench.classifiers import Classifier
    from apibench.classifiers import load as load_classifier
    from apibench.emulator import Emulator
    from apibench.errors import ApibenchError
    from apibench.imageset import ImageRecord, ImageSet
    from apibench.pixels import to_pixels, to_tensor
    from apibench.purifiers import create as create_purifier
    from apibench.purifiers.contract import Purifier
    from apibench.query.contract import Label, Provider, ProviderError

__version__ = "0.1.0"

__all__ = [
    "ApibenchError",
    "Attack",
    "Classifier",
    "Emulator",
    "ImageRecord",
    "ImageSet",
    "Label",
    "Provider",
    "ProviderError",
    "Purifier",
    "create_purifier",
    "export_store",
    "generate",
    "load_classifier",
    "open_images",
    "providers",
    "purify",
    "query_images",
    "read_answers",
    "read_outcomes",
    "run_recipe",
    "to_pixels",
    "to_tensor",
    "verify_report",
    "write_report",
]

# Where the names are that are not in apibench.api, and what they are called there.
_HOMES = {
    "ApibenchError": "apibench.errors:ApibenchError",
    "Attack": "apibench.attacks.attack:Attack",
    "Classifier": "apibench.classifiers:Classifier",
    "Emulator": "apibench.emulator:Emulator",
    "ImageRecord": "apibench.imageset:ImageRecord",
    "ImageSet": "apibench.imageset:ImageSet",
    "Label": "apibench.query.contract:Label",
    "Provider": "apibench.query.contract:Provider",
    "ProviderError": "apibench.query.contract:ProviderError",
    "Purifier": "apibench.purifiers.contract:Purifier",
    "create_purifier": "apibench.purifiers:create",
    "load_classifier": "apibench.classifiers:load",
    "to_pixels": "apibench.pixels:to_pixels",
    "to_tensor": "apibench.pixels:to_tensor",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, own = _HOMES.get(name, f"apibench.api:{name}").partition(":")
    value = globals()[name] = getattr(import_module(module), own)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
