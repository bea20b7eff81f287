"""What an image costs by list price, and which errors are not billed: a dated file in ``data/``, or one of the user's own."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apibench import data
from apibench.errors import ApibenchError
from apibench.query.contract import ErrorKind, ProviderError


@dataclass(frozen=True)
class Unbilled:
    """Errors that a vendor does not bill, by kind or by the vendor's own code. Any other error may have been billed."""

    kinds: frozenset[ErrorKind] = frozenset()
    codes: frozenset[str] = frozenset()

    def covers(self, error: ProviderError) -> bool:
        return error.kind in self.kinds or error.code in self.codes

    def __str__(self) -> str:
        return ", ".join([*sorted(self.kinds), *sorted(self.codes)]) or "nothing"


NOTHING_UNBILLED = Unbilled()


def price_of_image(provider: str, prices: Path | None = None) -> float | None:
    """US dollars an image (vendors bill each image of a batch), or None where the list does not name the provider.

    Raises ApibenchError for an unreadable list.
    """
    path = prices or data.path("prices.json")
    try:
        entry = _of(provider, _read(path)["per_1000"])
        if entry is None:
            return None
        price = float(entry["price"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise _no_list(path, error) from error
    if not math.isfinite(price) or price < 0:
        raise ApibenchError(f"{path}: per_1000.{provider}.price must be 0 or more, got {price}")
    return price / 1000


def unbilled(provider: str, prices: Path | None = None) -> Unbilled:
    """The errors of a provider that are not billed: by the user's list if it says so, else by the one that comes along.

    Raises ApibenchError for an unreadable list.
    """
    path = prices or data.path("prices.json")
    try:
        table = _read(path).get("not_billed")
        if table is None:
            path = data.path("prices.json")
            table = _read(path)["not_billed"]
        entry = _of(provider, table)
        if entry is None:
            return NOTHING_UNBILLED
        kinds, codes = entry.get("kinds", []), entry.get("codes", [])
        if not isinstance(kinds, list) or not isinstance(codes, list):
            raise TypeError("kinds and codes are lists")
        return Unbilled(frozenset(map(ErrorKind, kinds)), frozenset(map(str, codes)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _no_list(path, error) from error


def dated(prices: Path | None = None) -> str:
    """When the list was made, for a person to read."""
    try:
        return str(_read(prices or data.path("prices.json")).get("as_of", "undated"))
    except (OSError, ValueError, AttributeError):
        return "undated"


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _of(provider: str, table: Any) -> Any:
    """An entry of a provider, or of the adapter before the colon (``local:resnet50``)."""
    return table.get(provider, table.get(provider.partition(":")[0]))


def _no_list(path: Path, error: Exception) -> ApibenchError:
    return ApibenchError(f"{path}: not a price list like data/prices.json ({type(error).__name__}: {error})")
