"""A copy of a response store that may be published: what belongs to it and nothing else, redacted, without folders of ours."""

from __future__ import annotations

import json
import re
import sqlite3
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from apibench.errors import ApibenchError
from apibench.export import secrets
from apibench.export.secrets import Scanner
from apibench.query import schema
from apibench.query.redact import LEAST_IN_ANSWERS, mask, mask_text, redact, redact_body
from apibench.query.store import ResponseStore
from apibench.report.provenance import without_folders
from apibench.text import plain

IMAGES = "images"  # the folder that image sets go to, and its name in the copy
KEY = ("campaign", "provider", "origin", "settings", "sha256")
COLUMNS = {
    "images": ("sha256", "variant", "source", "image_id", "label", "label_source", "pixels_sha256", "folder", "file"),
    "attempts": (
        *(
            "id",
            *KEY,
            "started_at",
            "finished_at",
            "outcome",
            "error_kind",
            "error_code",
            "error_message",
            "http_status",
        ),
        *("raw", "latency", "price", "request", "sent", "billing", "sent_sha256"),
    ),
    "responses": (
        *KEY,
        "attempt_id",
        "raw",
        "labels",
        "model_version",
        "request_id",
        "latency",
        "received_at",
        "price",
    ),
}
_ORDER = {"images": "variant, source, folder, sha256", "attempts": "id", "responses": ", ".join(KEY)}
_KEPT = {
    # Photographs that were never asked about in what is published are nobody's business.
    "images": "source IN (SELECT i.source FROM old.images AS i JOIN old.attempts AS a USING (sha256) "
    "WHERE ?1 IS NULL OR a.campaign = ?1)",
    "attempts": "?1 IS NULL OR campaign = ?1",
    "responses": "?1 IS NULL OR campaign = ?1",
}


def copy(store: Path, to: Path, campaign: str | None) -> dict[str, Path]:
    """Write the copy; the folders of its image sets (``images/clean``) with where they are on this machine.

    All campaigns, or the one named. Raises ApibenchError where the store cannot be read, or has no such campaign.
    """
    with ResponseStore.open(store, read_only=True):
        pass  # it is one
    scratch = to.with_name(to.name + ".whole")
    with closing(sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True)) as source:
        # As it is at one moment, whoever is writing; and of this version, whatever the store's.
        source.execute("VACUUM INTO ?", (str(scratch),))
    with closing(sqlite3.connect(scratch, isolation_level=None)) as whole:
        schema.prepare(scratch, whole)
    # Into tables of its own, row by row: of what else may stand in the old file, deleted rows included, nothing comes along.
    with closing(sqlite3.connect(to, isolation_level=None)) as new:
        new.executescript(schema.SCHEMA)
        new.execute("ATTACH ? AS old", (str(scratch),))
        _check_campaign(new, store, campaign)
        new.execute("BEGIN")
        places = _copy_rows(new, store, campaign)
        new.execute("COMMIT")
        new.execute("DETACH old")
    scratch.unlink()
    return places


def _check_campaign(new: sqlite3.Connection, store: Path, campaign: str | None) -> None:
    names = sorted(str(name) for (name,) in new.execute("SELECT DISTINCT campaign FROM old.attempts"))
    if not names:
        raise ApibenchError(f"{store}: holds no outcome yet; `apibench query` puts them there")
    if campaign is not None and campaign not in names:
        raise ApibenchError(f"{store}: has no campaign {campaign!r}; it has: {plain(', '.join(names), 300)}")


def _copy_rows(new: sqlite3.Connection, store: Path, campaign: str | None) -> dict[str, Path]:
    folders: dict[str, str] = {}
    named: dict[tuple[str, str], str] = {}  # by column and what is published: what the store has
    for table, columns in COLUMNS.items():
        marks = ", ".join("?" * len(columns))
        where = f"FROM old.{table} WHERE {_KEPT[table]} ORDER BY {_ORDER[table]}"
        for values in new.execute(f"SELECT {', '.join(columns)} {where}", (campaign,)):
            row = dict(zip(columns, values, strict=True))
            if table == "images":
                row["folder"] = folders.setdefault(str(row["folder"]), _free(str(row["folder"]), set(folders.values())))
            for name in _NAMES.keys() & row.keys():
                if isinstance(before := row[name], str):
                    row[name] = _NAMES[name](before)
                    if named.setdefault((name, row[name]), before) != before:
                        raise ApibenchError(
                            f"{store}: table {table}, {name}: two of them differ in a folder alone, which is not published: "
                            f"{plain(row[name], 100)}"
                        )
            row |= {name: clean(row[name]) for name, clean in _CLEAN[table].items() if row[name] is not None}
            new.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", tuple(row.values()))  # noqa: S608
    return {new_name: store.parent / old_name for old_name, new_name in folders.items()}


def _free(folder: str, taken: set[str]) -> str:
    """A name for a folder of images that says what the old one was called, and is not taken."""
    name = re.sub(r"[^A-Za-z0-9.+_-]+", "-", Path(folder).name).strip(".") or "set"
    numbered = (f"{IMAGES}/{name}" + (f"-{number}" if number > 1 else "") for number in range(1, len(taken) + 2))
    return next(one for one in numbered if one not in taken)


def _setting(value: str) -> str:
    """Settings without folders of this machine; those without any, as every adapter here has them, stay as they are."""
    said = _json(value)
    cleaned = without_folders(said)
    if cleaned == said:
        return value
    return cleaned if isinstance(cleaned, str) else json.dumps(cleaned, sort_keys=True)


def _variant(value: str) -> str:
    """Attack and purifiers, each without a folder of this machine: ``ncis:/home/…/w.safetensors/4`` is of a file, 4 times."""
    parts = (part.rpartition("/") for part in value.split("+"))
    return "+".join(f"{without_folders(name)}{slash}{strength}" for name, slash, strength in parts)


def _error_text(value: str) -> str:
    return redact(str(without_folders(value)), most=600)


def _answer(value: bytes | str) -> bytes:
    return mask(value if isinstance(value, bytes) else str(value).encode(), least=LEAST_IN_ANSWERS)


def _known(value: str) -> str:
    return mask_text(str(value), least=LEAST_IN_ANSWERS)


# What tells answers apart: two that were different have to stay so.
_NAMES: dict[str, Callable[[str], str]] = {
    "settings": _setting,
    "variant": _variant,
    "model_version": lambda version: str(without_folders(version)),
}
_CLEAN: dict[str, dict[str, Callable[[Any], object]]] = {
    "images": {},
    "attempts": {
        "error_message": _error_text,
        "error_code": lambda code: redact(str(code)),
        "raw": lambda raw: redact_body(raw if isinstance(raw, bytes) else str(raw).encode()),
    },
    "responses": {"raw": _answer, "labels": _known, "request_id": _known, "model_version": _known},
}


# --- what is in it ---


def rows(copied: Path, table: str) -> Iterator[dict[str, Any]]:
    """The rows of a table of the copy, in an order of their own, as JSON can hold them.

    A raw body is ``raw`` where it is text, as received, else ``raw_base64``; ``settings`` and ``labels`` are no longer text.
    """
    with closing(sqlite3.connect(copied)) as connection:
        columns = COLUMNS[table]
        for values in connection.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {_ORDER[table]}"):  # noqa: S608
            row = dict(zip(columns, values, strict=True))
            for name in {"settings", "labels"} & row.keys():
                row[name] = _json(row[name])
            if isinstance(raw := row.get("raw"), bytes):
                try:
                    row["raw"] = raw.decode()
                except UnicodeDecodeError:
                    del row["raw"]
                    row["raw_base64"] = b64encode(raw).decode()
            yield row


def _json(value: Any) -> Any:
    """A JSON text as what it says; what is none, as it is."""
    try:
        return json.loads(value)
    except (ValueError, TypeError, RecursionError):
        return value


_OF_PHOTOGRAPHS = ("file", "image_id", "source")  # names that a user gave; many a collection's are MD5 hashes


def check(copied: Path) -> Scanner:
    """Raises ApibenchError naming table, row and column of what looks like a key in the copy.

    What is returned looks for keys in what is made from the copy: ids that an answer says are known to it.
    """
    with closing(sqlite3.connect(copied)) as connection:
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        scanner = Scanner(_ids(connection))
        said: set[str] = set()
        clean: set[str] = set()  # texts of names and settings, which every row repeats
        for table, columns in COLUMNS.items():
            query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY {_ORDER[table]}"  # noqa: S608
            for number, values in enumerate(connection.execute(query), 1):
                for name, value in zip(columns, values, strict=True):
                    if not isinstance(value, str | bytes) or value in clean:
                        continue
                    text = value.decode("latin-1") if isinstance(value, bytes) else value
                    photograph = table == "images" and name in _OF_PHOTOGRAPHS
                    answer = photograph or (table == "responses" and name in ("raw", "request_id"))
                    if found := scanner.find(text, answer=answer):
                        raise ApibenchError(f"its table {table}, row {number}, {name}: {found}")
                    if answer:
                        said |= set(secrets.ids(text))
                    elif name in KEY[:4]:
                        clean.add(text)
        return Scanner(said | _ids(connection))


def _ids(connection: sqlite3.Connection) -> set[str]:
    """Models and their versions, which providers' settings and answers name by what has the form of a key."""
    named: set[str] = set()
    for (version,) in connection.execute(
        "SELECT DISTINCT model_version FROM responses WHERE model_version IS NOT NULL"
    ):
        named |= set(secrets.ids(str(version)))
    for (settings,) in connection.execute("SELECT DISTINCT settings FROM attempts"):
        found = _json(settings)
        for name in ("model", "model_version", "model-version"):
            named |= set(secrets.ids(str(found.get(name, "")))) if isinstance(found, dict) else set()
    return named
