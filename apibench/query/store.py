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
from apibench.query import schema
from apibench.query.account import REAL, Account, Accounts
from apibench.query.contract import Answer, Label, ProviderError

# What an attempt is given that a crash left without an outcome.
CRASHED = "the program ended before the answer was stored"


@dataclass(frozen=True)
class Key:
    """What an answer belongs to, apart from the image: one campaign, provider, origin and settings."""

    campaign: str
    provider: str
    origin: str
    settings: str  # canonical JSON

    def values(self) -> tuple[str, str, str, str]:
        return self.campaign, self.provider, self.origin, self.settings

    @property
    def is_real(self) -> bool:
        """Whether its answers cost money: not those of an emulator, a recording or this machine."""
        return self.origin in REAL


@dataclass(frozen=True)
class Lost:
    """Of one image: how many of its answers may have been lost, over all starts, and what happened last."""

    times: int
    last: str


class CapReachedError(Exception):
    """A request would go over a cap, and is not to be sent. ``str`` is the option with its value."""


class ResponseStore:
    """A store, open. Safe from several threads; only one process writes at a time (a second one is refused)."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: FileLock | None) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock
        self._mutex = threading.Lock()
        self._accounts = Accounts()
        self._own = threading.local()  # a thread's transaction, while several writes are one

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> ResponseStore:
        """Open or (unless ``read_only``) make a store. Attempts that a crash left without an outcome become uncertain.

        A store of an earlier version becomes one of this version when it is opened for writing, and is read as it is. Raises
        ApibenchError where the file is no store, is of a later version, cannot be written, or is being written to.
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
                        "error_message = ?, billing = 'maybe' WHERE outcome IS NULL",
                        (now(), CRASHED),
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
        """SHA-256 of every image that is never to be sent again under a key: ``answered`` or ``rejected``.

        Not those that :mod:`apibench.query.preflight` refused: that cost nothing, and is looked at again by every start.
        """
        with self._mutex:
            rows = self._connection.execute(
                "SELECT sha256, 'rejected' FROM attempts WHERE campaign = ? AND provider = ? AND origin = ? "
                "AND settings = ? AND error_kind = 'rejected' AND error_code IS NOT 'preflight' UNION ALL "
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
                "AND settings = ? AND error_kind = 'rejected' AND error_code IS NOT 'preflight'",
                key.values(),
            ).fetchall()
        return {sha256: message or "refused" for sha256, message in rows}

    def uncertain(self, key: Key) -> dict[str, Lost]:
        """Images without an outcome of which an answer may have been lost, by SHA-256."""
        with self._mutex:
            rows = self._connection.execute(  # of the row that MAX picks is the message too
                "SELECT sha256, COUNT(*), error_message, MAX(id) FROM attempts WHERE campaign = ? AND provider = ? "
                "AND origin = ? AND settings = ? AND (outcome = 'uncertain' OR outcome IS NULL) GROUP BY sha256",
                key.values(),
            ).fetchall()
        settled = self.settled(key)
        return {
            sha256: Lost(count, message or "no answer yet")
            for sha256, count, message, _ in rows
            if sha256 not in settled
        }

    def versions(self, key: Key) -> dict[str, int]:
        """How many answers each model version gave under a key; without those that name none."""
        with self._mutex:
            rows = self._connection.execute(
                "SELECT model_version, COUNT(*) FROM responses WHERE campaign = ? AND provider = ? AND origin = ? "
                "AND settings = ? AND model_version IS NOT NULL GROUP BY model_version",
                key.values(),
            ).fetchall()
        return dict(rows)

    def calls(self, campaign: str, *, real: bool = True) -> int:
        """Requests put on the wire for a campaign so far, retries and uncertain ones included, not those never sent.

        With ``real`` False those of its rehearsals, recordings and local answers.
        """
        with self._mutex:
            return Account.counted(self._connection, campaign).calls[real]

    def spent(self, campaign: str, *, real: bool = True) -> float:
        """US dollars by list price of what a campaign was billed, or may have been; with ``real`` False, of its rehearsals."""
        with self._mutex:
            return Account.counted(self._connection, campaign).spent(real=real)

    def begin(
        self,
        key: Key,
        sha256s: Sequence[str],
        *,
        price: float | None,
        cap: int | None,
        max_cost: float | None = None,
        sent_sha256s: Sequence[str | None] | None = None,
    ) -> list[int]:
        """Commit the intent to send one request about these images; the attempts' ids, in order.

        ``price``: US dollars an image. ``sent_sha256s``: of the bytes, where they are not those of the files. Raises
        CapReachedError, with nothing written, where the campaign would have more than ``cap`` requests on the wire or cost
        more than ``max_cost``: counted and written in one transaction, so that no concurrency goes one over.
        """
        with self._transaction() as cursor:
            account = self._accounts.of(cursor, key.campaign)
            if cap is not None and account.calls[key.is_real] >= cap:
                raise CapReachedError(f"--max-calls {cap}")
            # Sums of prices are not exact; a billionth of a dollar is nobody's cap.
            costs = account.spent(real=key.is_real) + (price or 0) * len(sha256s)
            if max_cost is not None and costs > max_cost + 1e-9:
                raise CapReachedError(f"--max-cost {max_cost:g}")
            account.begun(len(sha256s), price, real=key.is_real)
            request = _next_id(cursor)
            ids = range(request, request + len(sha256s))
            cursor.executemany(
                "INSERT INTO attempts (id, campaign, provider, origin, settings, sha256, started_at, price, request, "
                "sent_sha256) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (id_, *key.values(), sha256, now(), price, request, sent)
                    for id_, sha256, sent in zip(ids, sha256s, sent_sha256s or [None] * len(ids), strict=True)
                ],
            )
            return list(ids)

    def record_unsent(self, key: Key, sha256: str, error: ProviderError) -> None:
        """Store an outcome for which there was no request: an image that the provider's own limits exclude."""
        with self._transaction() as cursor:
            account, id_ = self._accounts.of(cursor, key.campaign), _next_id(cursor)
            cursor.execute(
                "INSERT INTO attempts (id, campaign, provider, origin, settings, sha256, started_at, request) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (id_, *key.values(), sha256, now(), id_),
            )
            account.begun(
                1, None, real=key.is_real
            )  # and taken back in the next line, where it is seen that it was not sent
            self._finish(cursor, id_, "error", error, 0.0, sent=False, billing="no")

    def record_answer(self, attempt: int, answer: Answer, latency: float) -> None:
        """Store a raw response with its attempt's outcome. ``latency`` is in seconds."""
        with self._transaction() as cursor:
            self._finish(cursor, attempt, "answered", None, latency, sent=True, billing="yes")
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

    def record_error(self, attempt: int, error: ProviderError, latency: float, *, unbilled: bool = False) -> None:
        """Store an attempt's error. ``unbilled``: the vendor does not bill it. What was never sent is not billed either."""
        lost = error.uncertain and error.sent
        billing = "maybe" if lost or (error.sent and not unbilled) else "no"
        with self._transaction() as cursor:
            self._finish(cursor, attempt, "uncertain" if lost else "error", error, latency, error.sent, billing)

    def _finish(
        self,
        cursor: sqlite3.Cursor,
        attempt: int,
        outcome: str,
        error: ProviderError | None,
        latency: float,
        sent: bool,
        billing: str,
    ) -> None:
        about: tuple[object, ...] = (None,) * 5
        if error is not None:
            about = (error.kind.value, _text(error.code), _text(error.message), error.status, error.raw)
        cursor.execute(
            "UPDATE attempts SET outcome = ?, finished_at = ?, latency = ?, error_kind = ?, error_code = ?, "
            "error_message = ?, http_status = ?, raw = ?, sent = ?, billing = ? WHERE id = ? AND outcome IS NULL",
            (outcome, now(), latency, *about, sent, billing, attempt),
        )
        if cursor.rowcount != 1:
            raise AssertionError(f"attempt {attempt} has an outcome already")
        self._accounts.ended(cursor, attempt, sent=sent, billed=billing != "no")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for queries that belong together: nothing that is written meanwhile changes what they see."""
        with self._mutex:
            try:
                self._connection.execute("BEGIN")
                yield self._connection
            except sqlite3.Error as error:
                raise ApibenchError(f"{self.path}: cannot be read to its end ({error})") from error
            finally:
                if self._connection.in_transaction:
                    self._connection.rollback()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What this thread writes within is one write, all or nothing."""
        with self._transaction() as cursor:
            self._own.cursor = cursor
            try:
                yield
            finally:
                self._own.cursor = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        """One write, all or nothing, on disk when it returns."""
        if getattr(self._own, "cursor", None) is not None:
            yield self._own.cursor
            return
        with self._mutex:
            cursor = self._connection.cursor()
            try:
                cursor.execute("BEGIN IMMEDIATE")
                yield cursor
                cursor.execute("COMMIT")
            except BaseException as error:
                self._accounts.forget()
                if self._connection.in_transaction:
                    self._connection.rollback()
                if isinstance(error, sqlite3.Error):
                    raise ApibenchError(
                        f"{self.path}: cannot be written ({error}). What is stored already is kept."
                    ) from error
                raise
            finally:
                cursor.close()


def _next_id(cursor: sqlite3.Cursor) -> int:
    return int(cursor.execute("SELECT COALESCE(MAX(id), 0) + 1 FROM attempts").fetchone()[0])


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
            schema.prepare(path, connection)
            connection.execute("PRAGMA journal_mode = WAL")
            # A commit has reached the disk when it returns: what was paid for survives a power cut too.
            connection.execute("PRAGMA synchronous = FULL")
        else:
            schema.see_as_current(path, connection)
    except sqlite3.Error as error:
        connection.close()
        raise ApibenchError(f"{path}: cannot be opened as a store ({error})") from error
    except BaseException:
        connection.close()
        raise
    return connection
