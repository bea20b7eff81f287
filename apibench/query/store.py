"""The response store: one SQLite file that holds every request's intent, every raw response, and what they were about.

An intent is committed before its request is sent, and the outcome after it, so that a kill at any moment leaves either no
trace and no request, or an attempt without an outcome: *uncertain*, since it may have been answered and billed. A raw
response is what was paid for: it is committed before anything is computed from it and never overwritten.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from apibench.errors import ApibenchError
from apibench.imageset import ImageSet
from apibench.query.contract import Answer, Label, ProviderError

SCHEMA_VERSION = "1"

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO meta VALUES ('schema_version', '1');

-- What was asked about. One image may be several variants (a purifier that changes nothing), so the key is all three.
CREATE TABLE images (
  sha256 TEXT NOT NULL, variant TEXT NOT NULL, source TEXT NOT NULL, image_id TEXT NOT NULL,
  label INTEGER, label_source TEXT, pixels_sha256 TEXT NOT NULL, folder TEXT NOT NULL, file TEXT NOT NULL,
  PRIMARY KEY (sha256, variant, source));

-- One row a request and image: the intent, then its outcome.
CREATE TABLE attempts (
  id INTEGER PRIMARY KEY,
  campaign TEXT NOT NULL, provider TEXT NOT NULL, origin TEXT NOT NULL, settings TEXT NOT NULL, sha256 TEXT NOT NULL,
  started_at TEXT NOT NULL, finished_at TEXT,
  outcome TEXT CHECK (outcome IN ('answered', 'error', 'uncertain')),
  error_kind TEXT, error_code TEXT, error_message TEXT, http_status INTEGER, raw BLOB, latency REAL, price REAL);
CREATE INDEX attempts_of ON attempts (campaign, provider, origin, settings, sha256);

CREATE TABLE responses (
  campaign TEXT NOT NULL, provider TEXT NOT NULL, origin TEXT NOT NULL, settings TEXT NOT NULL, sha256 TEXT NOT NULL,
  attempt_id INTEGER NOT NULL UNIQUE REFERENCES attempts (id),
  raw BLOB NOT NULL, labels TEXT NOT NULL, model_version TEXT, request_id TEXT, latency REAL, received_at TEXT NOT NULL,
  price REAL,
  PRIMARY KEY (campaign, provider, origin, settings, sha256));

-- One row an image: answered, refused for good, or failed; the error is the last attempt's (SQLite takes the other columns
-- of the row that MAX picks).
CREATE VIEW v_outcomes AS
SELECT a.campaign, a.provider, a.origin, a.settings, a.sha256,
       CASE WHEN r.sha256 IS NOT NULL THEN 'answered'
            WHEN SUM(a.error_kind = 'rejected') > 0 THEN 'rejected'
            ELSE 'failed' END AS outcome,
       r.labels, r.model_version, r.raw,
       a.error_kind, a.error_code, a.error_message,
       COUNT(*) AS attempts, r.latency, SUM(a.price) AS price, MAX(a.id) AS last_attempt
FROM attempts AS a LEFT JOIN responses AS r USING (campaign, provider, origin, settings, sha256)
GROUP BY a.campaign, a.provider, a.origin, a.settings, a.sha256;
"""


@dataclass(frozen=True)
class Key:
    """What an answer belongs to, apart from the image: one campaign, provider, origin and settings."""

    campaign: str
    provider: str
    origin: str
    settings: str  # canonical JSON

    def values(self) -> tuple[str, str, str, str]:
        return self.campaign, self.provider, self.origin, self.settings


class ResponseStore:
    """A store, open. Safe from several threads; only one process writes at a time (a second one is refused)."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: FileLock | None) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock
        self._mutex = threading.Lock()

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> ResponseStore:
        """Open or (unless ``read_only``) make a store. Attempts that a crash left without an outcome become uncertain.

        Raises ApibenchError where the file is no store, is of another version, cannot be written, or is being written to.
        """
        lock = None if read_only else _take_lock(path)
        try:
            connection = _connect(path, read_only)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        store = cls(path, connection, lock)
        if not read_only:
            try:
                with store._transaction() as cursor:
                    cursor.execute(
                        "UPDATE attempts SET outcome = 'uncertain', finished_at = ?, error_kind = 'transient', "
                        "error_message = 'the program ended before the answer was stored' WHERE outcome IS NULL",
                        (now(),),
                    )
            except BaseException:
                store.close()
                raise
        return store

    def close(self) -> None:
        """Close. The log is folded in, so that the store is one plain file again, which may be copied or made read-only."""
        if self._lock is not None:
            with suppress(sqlite3.Error):  # a reader is still there, or the disk is full: the log stays, and is sound
                self._connection.execute("PRAGMA busy_timeout = 0")
                self._connection.execute("PRAGMA journal_mode = DELETE")
        self._connection.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> ResponseStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def remember(self, images: ImageSet) -> None:
        """Note which images the answers are about, so that a report needs nothing but the store and the files."""
        with self._transaction() as cursor:
            cursor.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", self._rows(images))

    def remembers(self, images: ImageSet) -> bool:
        """True if :meth:`remember` would change nothing."""
        with self._mutex:
            known = set(self._connection.execute("SELECT * FROM images"))
        # Two records of a set may be one image: the last of them is the one that is kept.
        return known.issuperset({row[:3]: row for row in self._rows(images)}.values())

    def _rows(self, images: ImageSet) -> list[tuple[object, ...]]:
        folder = os.path.relpath(images.folder.resolve(), self.path.resolve().parent)
        return [
            (
                r.sha256,
                r.variant,
                r.source,
                r.id,
                r.label,
                r.label_source,
                r.pixels_sha256,
                Path(folder).as_posix(),
                r.file,
            )
            for r in images.records
        ]

    def settled(self, key: Key) -> dict[str, str]:
        """SHA-256 of every image that is never to be sent again under a key: ``answered`` or ``rejected``."""
        with self._mutex:
            rows = self._connection.execute(
                "SELECT sha256, 'rejected' FROM attempts WHERE campaign = ? AND provider = ? AND origin = ? "
                "AND settings = ? AND error_kind = 'rejected' UNION ALL "
                "SELECT sha256, 'answered' FROM responses WHERE campaign = ? AND provider = ? AND origin = ? "
                "AND settings = ?",
                key.values() * 2,
            ).fetchall()
        return dict(rows)

    def refusals(self, key: Key) -> dict[str, str]:
        """Why images were refused for good under a key: SHA-256 to the error's message."""
        with self._mutex:
            rows = self._connection.execute(
                "SELECT sha256, error_message FROM attempts WHERE campaign = ? AND provider = ? AND origin = ? "
                "AND settings = ? AND error_kind = 'rejected'",
                key.values(),
            ).fetchall()
        return {sha256: message or "refused" for sha256, message in rows}

    def calls(self, campaign: str) -> int:
        """Requests put on the wire for a campaign so far, retries and uncertain ones included."""
        with self._mutex:
            return self._calls(self._connection, campaign)

    @staticmethod
    def _calls(connection: sqlite3.Connection | sqlite3.Cursor, campaign: str) -> int:
        row = connection.execute("SELECT COUNT(*) FROM attempts WHERE campaign = ?", (campaign,)).fetchone()
        return int(row[0])

    def begin(self, key: Key, sha256s: Sequence[str], *, price: float | None, cap: int | None) -> list[int] | None:
        """Commit the intent to send a request about these images; the attempts' ids, in order.

        None, with nothing written, where that would put more than ``cap`` on the wire for the campaign: counted and written
        in one transaction, so that no concurrency goes one over.
        """
        with self._transaction() as cursor:
            if cap is not None and self._calls(cursor, key.campaign) + len(sha256s) > cap:
                return None
            ids = []
            for sha256 in sha256s:
                cursor.execute(
                    "INSERT INTO attempts (campaign, provider, origin, settings, sha256, started_at, price) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*key.values(), sha256, now(), price),
                )
                assert cursor.lastrowid is not None
                ids.append(cursor.lastrowid)
            return ids

    def record_answer(self, attempt: int, answer: Answer, latency: float) -> None:
        """Store a raw response with its attempt's outcome. ``latency`` is in seconds."""
        with self._transaction() as cursor:
            self._finish(cursor, attempt, "answered", None, latency)
            cursor.execute(
                "INSERT INTO responses SELECT campaign, provider, origin, settings, sha256, id, ?, ?, ?, ?, ?, ?, price "
                "FROM attempts WHERE id = ?",
                (
                    answer.raw,
                    labels_to_json(answer.parsed.labels),
                    _text(answer.parsed.model_version),
                    _text(answer.request_id),
                    latency,
                    now(),
                    attempt,
                ),
            )

    def record_error(self, attempt: int, error: ProviderError, latency: float) -> None:
        with self._transaction() as cursor:
            self._finish(cursor, attempt, "uncertain" if error.uncertain else "error", error, latency)

    @staticmethod
    def _finish(
        cursor: sqlite3.Cursor, attempt: int, outcome: str, error: ProviderError | None, latency: float
    ) -> None:
        about: tuple[object, ...] = (None,) * 5
        if error is not None:
            about = (error.kind.value, _text(error.code), _text(error.message), error.status, error.raw)
        cursor.execute(
            "UPDATE attempts SET outcome = ?, finished_at = ?, latency = ?, error_kind = ?, error_code = ?, "
            "error_message = ?, http_status = ?, raw = ? WHERE id = ? AND outcome IS NULL",
            (outcome, now(), latency, *about, attempt),
        )
        if cursor.rowcount != 1:
            raise AssertionError(f"attempt {attempt} has an outcome already")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        """One write, all or nothing, on disk when it returns."""
        with self._mutex:
            cursor = self._connection.cursor()
            try:
                cursor.execute("BEGIN IMMEDIATE")
                yield cursor
                cursor.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.rollback()
                if isinstance(error, sqlite3.Error):
                    raise ApibenchError(
                        f"{self.path}: cannot be written ({error}). What is stored already is kept."
                    ) from error
                raise
            finally:
                cursor.close()


def labels_to_json(labels: Iterable[Label]) -> str:
    rows = [{"name": x.name, "score": x.score, "id": x.id, "parents": list(x.parents)} for x in labels]
    return json.dumps(rows)


def _text(text: str | None) -> str | None:
    """Text as SQLite takes it: half a surrogate pair from a hostile reply must not keep an answer out of the store."""
    return None if text is None else text.encode("utf-8", "replace").decode()


def canonical(settings: object) -> str:
    """Settings as the store's key has them: JSON with sorted keys."""
    return json.dumps(settings, sort_keys=True, separators=(",", ":"))


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _take_lock(path: Path) -> FileLock:
    """One writer at a time. The lock is the operating system's: it is gone when its process is, however that ended."""
    real = path.resolve()  # one lock, whatever link the store is reached by
    lock = FileLock(real.with_name(real.name + ".lock"))
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ApibenchError(
            f"{path}: another query is writing to this store; wait for it, or name another --store"
        ) from error
    except OSError as error:
        raise ApibenchError(f"{path}: cannot be written: {error.strerror or error}") from error
    return lock


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    if read_only and not path.is_file():
        raise ApibenchError(f"{path}: no such store; 'apibench query' makes one")
    uri = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10)
    except sqlite3.Error as error:
        raise ApibenchError(f"{path}: cannot be opened ({error})") from error
    try:
        if not read_only:
            if connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() == (0,):
                # The whole schema or none of it: a kill in between must not leave half a store.
                connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
            _check_version(path, connection)
            connection.execute("PRAGMA journal_mode = WAL")
            # A commit has reached the disk when it returns: what was paid for survives a power cut too.
            connection.execute("PRAGMA synchronous = FULL")
        else:
            _check_version(path, connection)
    except sqlite3.Error as error:
        connection.close()
        raise ApibenchError(f"{path}: cannot be opened as a store ({error})") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _check_version(path: Path, connection: sqlite3.Connection) -> None:
    try:
        row = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
        for table in ("attempts", "responses", "images"):
            connection.execute(f"SELECT * FROM {table} LIMIT 0")  # noqa: S608 - the three names above
    except sqlite3.DatabaseError as error:
        raise ApibenchError(f"{path}: not a response store of apibench ({error})") from error
    if row is None or row[0] != SCHEMA_VERSION:
        found = row[0] if row else "none"
        raise ApibenchError(f"{path}: a store of schema version {found}; this apibench writes version {SCHEMA_VERSION}")
