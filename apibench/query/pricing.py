"""What a call costs by list price: a dated file in ``data/``, which a user can replace by one of their own."""

from __future__ import annotations

import json
import math
from pathlib import Path

from apibench import data
from apibench.errors import ApibenchError


def price_of_call(provider: str, prices: Path | None = None) -> float | None:
    """US dollars a call, or None where the list does not name the provider. Raises ApibenchError for an unreadable list."""
    path = prices or data.path("prices.json")
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))["per_1000"].get(provider)
        if entry is None:
            return None
        price = float(entry["price"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ApibenchError(
            f"{path}: not a price list like data/prices.json ({type(error).__name__}: {error})"
        ) from error
    if not math.isfinite(price) or price < 0:
        raise ApibenchError(f"{path}: per_1000.{provider}.price must be 0 or more, got {price}")
    return price / 1000


def dated(prices: Path | None = None) -> str:
    """When the list was made, for a person to read."""
    path = prices or data.path("prices.json")
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("as_of", "undated"))
    except (OSError, ValueError, AttributeError):
        return "undated"
