"""A response store as pandas frames. The store is only read, and by SQL alone: no network, no SDK, no torch.

Labels are read again from the raw responses by the adapter's ``parse``, where the adapter is installed, so that every number of
a report can be computed from what the vendor sent; the labels parsed at the time stand in where it is not.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from apibench.errors import ApibenchError
from apibench.labels.imagenet import CLASSES
from apibench.query.contract import Label, Parsed
from apibench.query.schema import see_as_current
from apibench.text import plain

GROUP = ["campaign", "provider", "origin", "settings"]
EMULATED = "emulated/"  # what the emulator puts before the name of the network that answered, as its model version

_OUTCOMES = """
SELECT o.campaign, o.provider, o.origin, o.settings, o.sha256, i.source, i.variant, i.image_id, i.folder, i.file,
       o.outcome, o.labels AS stored_labels, o.model_version, o.raw, o.error_kind, o.error_code, o.attempts, o.price, o.latency
FROM v_outcomes AS o JOIN images AS i ON i.sha256 = o.sha256
WHERE :campaigns IS NULL OR o.campaign IN (SELECT value FROM json_each(:campaigns))
"""
_ORDER = [*GROUP, "variant", "source", "folder", "sha256"]
_WORDS = ["campaign", "provider", "origin", "settings", "source", "variant", "image_id", "folder", "file", "outcome"]
_CHUNK = 2000  # rows whose raw responses are in memory at once
_IMAGES = """
SELECT sha256, variant, source, image_id, folder, file, CASE WHEN label_source = 'given' THEN label END AS truth
FROM images ORDER BY variant, source, folder, sha256
"""
_ATTEMPTS = """
SELECT campaign, provider, origin, settings, COUNT(DISTINCT CASE WHEN sent THEN request END) AS calls,
       COUNT(DISTINCT CASE WHEN outcome IS NULL OR outcome = 'uncertain' THEN request END) AS uncertain,
       SUM(CASE WHEN sent AND billing IS NOT 'no' THEN price END) AS price
FROM attempts GROUP BY campaign, provider, origin, settings
"""

LOG_NOTE = (
    "The store has a write-ahead log beside it (a query is writing, or was killed): its SHA-256 above does not cover the last "
    "answers, the numbers do."
)


@dataclass(frozen=True)
class StoreFrames:
    """What a report is made from.

    ``outcomes``: one row per (campaign, provider, origin, settings, model_version, source, variant), sorted, with ``title``,
    ``network`` (the network that answered, if emulated, else None), ``attack`` (``clean`` or such as ``mi-di/eps16``),
    ``purifier`` (``none`` or such as ``ncis/4``), ``sha256``, ``outcome`` (``answered``, ``rejected``, ``failed``), ``labels``
    (a tuple of Label, None unless answered), ``image_id``, ``folder`` and ``file`` (of the PNG), ``attempts``, ``price`` and
    ``latency`` (seconds, of the answer).
    ``images``: what was put into the store, with ``attack`` and ``purifier``, and ``truth``, the ImageNet class that a photograph
    was given (0 to 999; NA where none was: a class that a network predicted is no truth). ``attempts``: one row per (campaign,
    provider, origin, settings) with the numbers ``calls`` and ``uncertain`` of requests, and ``price``, the sum of what was
    billed or may have been. ``notes``: what a reader has to know.
    """

    outcomes: pd.DataFrame
    images: pd.DataFrame
    attempts: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    def truth(self) -> dict[str, int]:
        """The class of each photograph that was given one, by the photograph's identity; the clean image's, if they differ."""
        given = self.images[self.images["truth"].between(0, CLASSES - 1)].sort_values(
            "attack", key=lambda a: a != "clean", kind="stable"
        )
        first = given.drop_duplicates("source")
        return {str(source): int(index) for source, index in zip(first["source"], first["truth"], strict=True)}


def read(store: Path, campaign: str | Collection[str] | None = None) -> StoreFrames:
    """Read a store, or one campaign of it, or several.

    Raises ApibenchError where it is none, of another version, has no such campaign, or is without outcomes.
    """
    chosen = selected(campaign)
    if not store.is_file():
        raise ApibenchError(f"{store}: there is no such store")
    try:
        with closing(connect(store)) as connection:
            see_as_current(store, connection)
            # One transaction: a query that is writing at this moment does not change what is read half-way.
            connection.execute("BEGIN")
            names = sorted(name for (name,) in connection.execute("SELECT DISTINCT campaign FROM v_outcomes"))
            if names and (unknown := sorted(set(chosen or ()) - set(names))):
                raise ApibenchError(f"{store}: has no campaign {unknown[0]!r}; it has: {plain(', '.join(names), 300)}")
            reader = _Reader()
            chunks = pd.read_sql_query(_OUTCOMES, connection, params={"campaigns": as_json(chosen)}, chunksize=_CHUNK)
            read_chunks = [reader.read(chunk) for chunk in chunks]
            images = pd.read_sql_query(_IMAGES, connection)
            attempts = pd.read_sql_query(_ATTEMPTS, connection)
    except (sqlite3.Error, pd.errors.DatabaseError) as error:
        raise ApibenchError(f"{store}: not a store that apibench can read ({plain(error, 120)})") from error
    if not any(map(len, read_chunks)):
        raise ApibenchError(f"{store}: holds no outcome yet; `apibench query` puts them there")
    outcomes = pd.concat(read_chunks).sort_values(_ORDER, kind="stable", ignore_index=True)
    if chosen is not None:
        attempts = attempts[attempts["campaign"].isin(chosen)].reset_index(drop=True)
    notes = reader.notes()
    outcomes = _one_image_each(_with_versions(outcomes, notes), notes)
    images = _of_interest(images, outcomes)
    if _has_log(store):
        notes.append(LOG_NOTE)
    return StoreFrames(_split_variant(outcomes), _split_variant(images), attempts, notes)


def selected(campaign: str | Collection[str] | None) -> list[str] | None:
    """The campaigns that are meant; None: all."""
    return None if campaign is None else [campaign] if isinstance(campaign, str) else sorted(campaign)


def as_json(campaigns: Collection[str] | None) -> str | None:
    """The same as a parameter of SQL, for ``json_each``."""
    return None if campaigns is None else json.dumps(list(campaigns))


def connect(store: Path) -> sqlite3.Connection:
    """Open read-only, even on a medium that cannot be written."""
    uri = "file:" + quote(str(store.absolute()))
    try:
        connection = sqlite3.connect(f"{uri}?mode=ro", uri=True)
        connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone()
        return connection
    except sqlite3.OperationalError:
        # A write-ahead log needs a file beside the store, even to read. Without a log there is nothing to miss in it.
        if _has_log(store):
            raise
        return sqlite3.connect(f"{uri}?immutable=1", uri=True)


def _has_log(store: Path) -> bool:
    log = store.with_name(store.name + "-wal")
    return log.exists() and log.stat().st_size > 0


# --- labels ---


@dataclass
class _Reader:
    """Reads labels and model versions from raw responses, some rows at a time, and remembers what a reader has to know."""

    adapters: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    changed: int = 0
    words: dict[str, str] = field(default_factory=dict)

    def _once(self, text: str | None) -> str | None:
        """The same text, one object however often it comes."""
        return self.words.setdefault(text, text) if isinstance(text, str) else text

    def read(self, outcomes: pd.DataFrame) -> pd.DataFrame:
        """``labels`` and ``title`` in place of what they are read from, and the model version that the raw response names."""
        for name in outcomes["provider"].unique():
            if name not in self.adapters:
                self.adapters[name] = _adapter(str(name))
        columns = ["provider", "variant", "source", "outcome", "stored_labels", "model_version", "raw"]
        found = [self._read(*row) for row in outcomes[columns].itertuples(index=False)]
        titles = {n: n if isinstance(adapter, str) else adapter.info.title for n, adapter in self.adapters.items()}
        # A large store says the same few things in most of its rows: each is in memory once.
        words = {name: [self._once(value) for value in outcomes[name]] for name in _WORDS}
        return outcomes.drop(columns=["stored_labels", "raw"]).assign(
            **{name: pd.Series(values, index=outcomes.index, dtype=object) for name, values in words.items()},
            labels=pd.Series([labels for labels, _ in found], index=outcomes.index, dtype=object),
            model_version=pd.Series([self._once(version) for _, version in found], index=outcomes.index, dtype=object),
            title=outcomes["provider"].map(titles),
        )

    def _read(
        self, provider: str, variant: str, source: str, outcome: str, stored: object, named: object, raw: object
    ) -> tuple[tuple[Label, ...] | None, str | None]:
        version = _text(named)
        if outcome != "answered":
            return None, version
        labels, adapter = _stored_labels(stored, self._once), self.adapters[provider]
        parsed = None if isinstance(adapter, str) else _parse(adapter.parse, raw)
        if isinstance(parsed, Parsed):
            same = parsed.labels == labels
            self.changed += not same
            return labels if same else parsed.labels, parsed.model_version or version
        if parsed is not None:
            self.failed.append(f"{provider}, {variant} of {str(source)[:12]}: {plain(parsed, 100)}")
        return labels, version

    def notes(self) -> list[str]:
        """What a report has to say of how its labels were read."""
        notes = [
            f"{name}: labels are those parsed when the answers came ({adapter})."
            for name, adapter in sorted(self.adapters.items())
            if isinstance(adapter, str)
        ]
        if self.failed:
            few = sorted(self.failed)[:5]
            shown = "; ".join(few) + (f"; and {len(self.failed) - 5} more" if len(self.failed) > 5 else "")
            notes.append(
                f"Raw responses that cannot be read again: {len(self.failed)}; their stored labels are used: {shown}."
            )
        if self.changed:
            notes.append(
                f"Raw responses read differently today than when they came: {self.changed}; today's reading is used."
            )
        return notes


def _adapter(provider: str) -> Any:
    """The adapter of that name, or the reason (a string) why its ``parse`` cannot be used."""
    for point in entry_points(group="apibench.providers", name=provider):
        try:
            adapter = point.load()
            adapter = adapter() if isinstance(adapter, type) else adapter
        except Exception as error:  # noqa: BLE001 - a package of someone else's: whatever it raises, the report goes on
            return f"its adapter cannot be loaded: {plain(error, 100)}"
        if callable(getattr(adapter, "parse", None)) and hasattr(adapter, "info"):
            return adapter
        return "its adapter has no parse"
    return "its adapter is not installed"


def _parse(parse: Callable[[bytes], Parsed], raw: object) -> Parsed | str:
    """What the raw response says, or (a string) why it cannot be read."""
    try:
        parsed = parse(raw if isinstance(raw, bytes) else str(raw).encode())
    except Exception as error:  # noqa: BLE001 - as above
        return str(error) or type(error).__name__
    return parsed


def _stored_labels(text: object, once: Callable[[str | None], str | None]) -> tuple[Label, ...]:
    """The store's JSON list; ``once`` makes equal texts one object. Raises ApibenchError where it is not one."""
    try:
        return tuple(
            Label(
                once(str(item["name"])) or "",
                float(item["score"]),
                once(_text(item.get("id"))),
                tuple(once(str(parent)) or "" for parent in item.get("parents") or ()),
            )
            for item in json.loads(str(text))
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ApibenchError(f"table responses: labels that are not a list of labels: {plain(text, 80)}") from error


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


# --- which rows may be compared ---


def _with_versions(outcomes: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Give outcomes without an answer the model version that answered their clean image, and add ``network``.

    A model version is part of what identifies a row of a table. A refusal names none: it belongs with the answer it would
    have been compared to, or with the only version there is.
    """
    versions: list[str] = []
    for _, group in outcomes.groupby(GROUP, sort=False):
        named = group["model_version"].dropna()
        clean = group[(group["variant"] == "clean") & group["model_version"].notna()]
        of_source = dict(zip(clean["source"], clean["model_version"], strict=True))
        default = named.iloc[0] if named.nunique() == 1 else ""
        versions += [
            version if isinstance(version, str) else of_source.get(source, default)
            for version, source in zip(group["model_version"], group["source"], strict=True)
        ]
        if named.nunique() > 1:
            first = group.iloc[0]
            notes.append(
                f"{first['provider']}, campaign {first['campaign']}: {named.nunique()} model versions answered; an image is "
                "compared only where the same version answered its clean image."
            )
    outcomes = outcomes.assign(model_version=pd.Series(versions, index=outcomes.index, dtype=object))
    networks = [version.removeprefix(EMULATED) if version.startswith(EMULATED) else None for version in versions]
    return outcomes.assign(network=pd.Series(networks, index=outcomes.index, dtype=object))


def _one_image_each(outcomes: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Keep one file per (group, model version, source, variant): the first by folder and hash."""
    key = [*GROUP, "model_version", "source", "variant"]
    repeated = outcomes.duplicated(key, keep="first")
    if repeated.any():
        folders = sorted({plain(folder, 60) for folder in outcomes.loc[outcomes.duplicated(key, keep=False), "folder"]})
        notes.append(
            f"{int(repeated.sum())} outcomes are of a second file for the same image and variant and are left out (folders "
            f"{', '.join(folders[:4])}): ask about another set of files under another --campaign."
        )
    return outcomes[~repeated].sort_values(key, kind="stable").reset_index(drop=True)


def _of_interest(images: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """The images that outcomes are of, and those of the same photographs and variants that have none yet, in any file."""
    key = pd.MultiIndex.from_frame(images[["source", "variant"]])
    asked = key.isin(pd.MultiIndex.from_frame(outcomes[["source", "variant"]]))
    missing = ~asked & images["source"].isin(set(outcomes["source"])) & images["variant"].isin(set(outcomes["variant"]))
    return images[(asked & images["sha256"].isin(set(outcomes["sha256"]))) | missing].reset_index(drop=True)


def _split_variant(frame: pd.DataFrame) -> pd.DataFrame:
    """``mi-di/eps16+ncis/4`` is attack ``mi-di/eps16`` and purifier ``ncis/4``; without a plus the purifier is ``none``."""
    parts = [str(variant).partition("+") for variant in frame["variant"]]
    return frame.assign(attack=[part[0] for part in parts], purifier=[part[2] or "none" for part in parts])


def epsilon(attack: str) -> int | None:
    """The bound an attack's name states, in levels of 255; None for ``clean``."""
    found = re.search(r"/eps(\d+)$", attack)
    return int(found[1]) if found else None
