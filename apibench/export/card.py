"""The data card of an export: what it is, how much of it, who answered, what is not known, and how to read and verify it."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import apibench
from apibench import text
from apibench.labels.match import RULE_VERSION
from apibench.report.compare import is_emulated

_ASKED = """
SELECT a.campaign, a.provider, a.origin, COUNT(DISTINCT a.sha256), COUNT(DISTINCT r.sha256),
       COUNT(DISTINCT CASE WHEN a.sent THEN a.request END),
       COUNT(DISTINCT CASE WHEN a.outcome IS NULL OR a.outcome = 'uncertain' THEN a.request END),
       substr(MIN(a.started_at), 1, 10), substr(MAX(a.started_at), 1, 10), GROUP_CONCAT(DISTINCT r.model_version)
FROM attempts AS a LEFT JOIN responses AS r USING (campaign, provider, origin, settings, sha256)
GROUP BY a.campaign, a.provider, a.origin ORDER BY 1, 2, 3
"""
_ANSWERED = "SELECT COUNT(*) FROM responses"
_HEAD = (
    *("Campaign", "Provider", "Origin", "Images asked", "Answered", "Calls", "Uncertain"),
    *("From", "To", "Model versions"),
)
_ORIGINS = {
    "live": "**live**: the vendor's own host answered.",
    "emulated": (
        "**EMULATED**: a local emulator answered with a public classifier, and no vendor was asked. **These numbers say "
        "nothing about the vendor** whose protocol was spoken."
    ),
    "custom": "**custom**: a host that is not the vendor's answered.",
    "local": "**local**: a classifier on the machine answered.",
}


def write(copied: Path, images: Sequence[dict[str, Any]], pictures: int, *, with_images: bool) -> str:
    """The card of a copied store. ``images``: the lines of ``images.jsonl``; ``pictures``: how many PNG files there are."""
    with closing(sqlite3.connect(copied)) as connection:
        asked = connection.execute(_ASKED).fetchall()
        (answered,) = connection.execute(_ANSWERED).fetchone()
    body = [[text.markdown("–" if cell is None else cell, 80) for cell in row] for row in asked]
    variants = Counter(str(row["variant"]) for row in images)
    environment = Environment(  # noqa: S701 - it is Markdown, and what is put in is escaped as such
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    card = environment.get_template("card.md.j2").render(
        origins=[_origin(origin) for origin in sorted({str(row[2]) for row in asked})],
        answered=answered,
        images=len({row["sha256"] for row in images}),
        photographs=len({row["source"] for row in images}),
        campaigns=[text.markdown(name, 60) for name in sorted({str(row[0]) for row in asked})],
        asked=text.table(_HEAD, body, right=range(3, 7)),
        variants=text.table(
            ["Variant", "Images"],
            [[text.markdown(name, 80), str(count)] for name, count in sorted(variants.items())],
            right=[1],
        ),
        pictures=pictures,
        with_images=with_images,
        version=apibench.__version__,
        rule=RULE_VERSION,
    )
    return card.rstrip("\n") + "\n"


def _origin(origin: str) -> str:
    if origin in _ORIGINS:
        return _ORIGINS[origin]
    played = f"**{text.markdown(origin, 60)}**: recorded answers were played; nobody was asked."
    return f"{played} They were {_ORIGINS['emulated']}" if is_emulated(origin) else played
