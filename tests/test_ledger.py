"""The ledger: what was sent and what it cost, over all starts, and stores of an earlier version."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from apibench.commands.query import query as query_command
from apibench.errors import ApibenchError
from apibench.query import status
from apibench.query.contract import ErrorKind, ProviderError
from apibench.query.pricing import Unbilled, unbilled
from apibench.query.store import Key, ResponseStore
from apibench.report import frames
from apibench.terminal import run_command
from tests.fakes import KEY, answer, error

LIVE = Key("default", "aws", "live", '{"MaxLabels":10}')

# What version 1 wrote.
VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO meta VALUES ('schema_version', '1');
CREATE TABLE images (
  sha256 TEXT NOT NULL, variant TEXT NOT NULL, source TEXT NOT NULL, image_id TEXT NOT NULL,
  label INTEGER, label_source TEXT, pixels_sha256 TEXT NOT NULL, folder TEXT NOT NULL, file TEXT NOT NULL,
  PRIMARY KEY (sha256, variant, source));
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
ROWS_1 = """
INSERT INTO images VALUES ('a', 'clean', 's', 'photo', 1, 'given', 'p', 'clean', 'photo.png');
INSERT INTO attempts (campaign, provider, origin, settings, sha256, started_at, finished_at, outcome, error_kind, price) VALUES
  ('default', 'aws', 'live', '{"MaxLabels":10}', 'a', 't', 't', 'error', 'throttled', 0.001),
  ('default', 'aws', 'live', '{"MaxLabels":10}', 'a', 't', 't', 'answered', NULL, 0.001),
  ('default', 'aws', 'live', '{"MaxLabels":10}', 'b', 't', 't', 'error', 'rejected', 0.001),
  ('default', 'aws', 'live', '{"MaxLabels":10}', 'c', 't', 't', 'uncertain', 'transient', 0.001),
  ('default', 'aws', 'live', '{"MaxLabels":10}', 'd', 't', NULL, NULL, NULL, 0.001);
INSERT INTO responses VALUES
  ('default', 'aws', 'live', '{"MaxLabels":10}', 'a', 2, x'7b7d', '[]', '3.0', 'r', 0.1, 't', 0.001);
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.sqlite"


@pytest.fixture
def old(path: Path) -> Path:
    """A store as version 1 left it, killed with a request in flight."""
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1 + ROWS_1)
    return path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = run_command(query_command, words)
    out, err = capsys.readouterr()
    return code, out, err


# --- an earlier version ---


def test_a_store_of_version_1_becomes_one_of_2_and_loses_nothing(old: Path) -> None:
    with ResponseStore.open(old) as store:
        assert store.settled(LIVE) == {"a": "answered", "b": "rejected"}
        assert store.calls("default") == 5
        assert store.spent("default") == pytest.approx(0.004), "all but the throttled one"
        assert set(store.uncertain(LIVE)) == {"c", "d"}
        assert status.check(store) == []
        store.begin(LIVE, ["e", "f"], price=0.001, cap=6)
        assert store.calls("default") == 6
    with sqlite3.connect(old) as connection:
        assert connection.execute("SELECT value FROM meta").fetchall() == [("2",)]
        assert connection.execute("SELECT request, sent, billing FROM attempts").fetchall() == [
            (1, 1, "no"),
            (2, 1, "yes"),
            (3, 1, "maybe"),
            (4, 1, "maybe"),
            (5, 1, "maybe"),
            (6, 1, None),
            (6, 1, None),
        ]


def test_a_migrated_store_has_the_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    for path in (old, tmp_path / "new.sqlite"):
        ResponseStore.open(path).close()
    tables = [
        {
            table: sqlite3.connect(path).execute(f"PRAGMA table_info({table})").fetchall()
            for table in ("attempts", "responses", "images", "v_outcomes")
        }
        for path in (old, tmp_path / "new.sqlite")
    ]
    assert tables[0] == tables[1]


def test_a_store_of_version_1_is_read_as_it_is(old: Path) -> None:
    before = old.read_bytes()
    with ResponseStore.open(old, read_only=True) as store:
        assert store.settled(LIVE) == {"a": "answered", "b": "rejected"}
        assert store.calls("default") == 5
        (standing,) = status.standings(store)
        assert (standing.requests, standing.uncertain, standing.in_flight) == (5, 2, 1)
        assert (standing.spent, standing.perhaps) == pytest.approx((0.001, 0.003))
        assert status.check(store) == []
    read = frames.read(old)
    assert read.attempts[["calls", "uncertain", "price"]].to_numpy().tolist() == [[5, 2, pytest.approx(0.004)]]
    assert old.read_bytes() == before


def test_a_kill_in_the_middle_of_the_migration_leaves_version_1(old: Path) -> None:
    code = (
        "import os, sqlite3, sys\nfrom apibench.query import schema\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\nc.execute('PRAGMA cache_size = 1')\n"
        "c.executescript(schema._FROM_1.replace('COMMIT;', ''))\nos.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(old)], check=False).returncode == -signal.SIGKILL
    with ResponseStore.open(old) as store:
        assert store.calls("default") == 5
        assert status.check(store) == []


def test_a_migration_that_has_no_room_says_so_and_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apibench.query import schema

    monkeypatch.setattr(schema, "_FROM_1", schema._FROM_1.replace("COMMIT;", "SELECT no_such_function();"))
    with pytest.raises(ApibenchError, match="cannot be opened as a store"):
        ResponseStore.open(old)
    with sqlite3.connect(old) as connection:
        assert connection.execute("SELECT value FROM meta").fetchone() == ("1",)
        assert len(connection.execute("PRAGMA table_info(attempts)").fetchall()) == 16


# --- what is counted ---


def test_a_request_with_several_images_is_one_call_and_each_image_costs(path: Path) -> None:
    with ResponseStore.open(path) as store:
        first = store.begin(KEY, ["a", "b", "c"], price=0.001, cap=2, max_cost=0.005)
        second = store.begin(KEY, ["d"], price=0.001, cap=2, max_cost=0.005)
        assert (first, second, store.calls("default")) == ([1, 2, 3], [4], 2)
        assert store.spent("default") == pytest.approx(0.004)
        with pytest.raises(Exception, match="--max-calls 2"):
            store.begin(KEY, ["e"], price=0.001, cap=2)
        with pytest.raises(Exception, match=r"--max-cost 0\.005"):
            store.begin(KEY, ["e", "f"], price=0.001, cap=None, max_cost=0.005)
        store.begin(KEY, ["e"], price=0.001, cap=None, max_cost=0.005)
        assert store.calls("default") == 3, "what was refused is not written down"


@pytest.mark.parametrize(
    ("outcome", "calls", "spent", "billing"),
    [
        (error(ErrorKind.THROTTLED), 1, 0.0, "no"),
        (error(ErrorKind.TRANSIENT), 1, 0.001, "maybe"),
        (error(ErrorKind.REJECTED), 1, 0.001, "maybe"),
        (error(ErrorKind.TRANSIENT, uncertain=True), 1, 0.001, "maybe"),
        (error(ErrorKind.THROTTLED, uncertain=True), 1, 0.001, "maybe"),
        (error(ErrorKind.TRANSIENT, code="Free"), 1, 0.0, "no"),
        (error(ErrorKind.TRANSIENT, sent=False), 0, 0.0, "no"),
        (error(ErrorKind.TRANSIENT, uncertain=True, sent=False), 0, 0.0, "no"),
    ],
)
def test_only_what_a_table_calls_unbilled_costs_nothing(
    path: Path, outcome: ProviderError, calls: int, spent: float, billing: str
) -> None:
    table = Unbilled(frozenset({ErrorKind.THROTTLED}), frozenset({"Free"}))
    with ResponseStore.open(path) as store:
        (attempt,) = store.begin(KEY, ["a"], price=0.001, cap=None)
        store.record_error(attempt, outcome, 0.1, unbilled=table.covers(outcome))
        assert (store.calls("default"), store.spent("default")) == (calls, spent)
        assert store._connection.execute("SELECT billing FROM attempts").fetchall() == [(billing,)]
        assert status.check(store) == []


def test_what_is_refused_before_it_is_sent_is_an_outcome_and_no_call(path: Path) -> None:
    with ResponseStore.open(path) as store:
        store.record_unsent(KEY, "a", error(ErrorKind.REJECTED, code="preflight", sent=False))
        assert store.settled(KEY) == {}, "which every start looks at again"
        assert (store.calls("default"), store.spent("default")) == (0, 0.0)
        assert status.check(store) == []


def test_each_of_the_four_vendors_has_a_table_of_what_it_does_not_bill(tmp_path: Path) -> None:
    for name in ("aws", "azure", "clarifai", "google"):
        assert unbilled(name).covers(error(ErrorKind.THROTTLED))
        assert not unbilled(name).covers(error(ErrorKind.TRANSIENT))
        assert not unbilled(name).covers(error(ErrorKind.REJECTED))
    assert str(unbilled("nobody")) == "nothing"
    own = tmp_path / "own.json"
    own.write_text('{"per_1000": {}}')
    assert unbilled("aws", own) == unbilled("aws"), "a list of prices alone says nothing about errors"
    own.write_text('{"per_1000": {}, "not_billed": {"aws": {"codes": ["X"]}}}')
    assert str(unbilled("aws", own)) == "X"
    own.write_text('{"per_1000": {}, "not_billed": {"aws": {"kinds": ["cheap"]}}}')
    with pytest.raises(ApibenchError, match=r"own\.json: not a price list"):
        unbilled("aws", own)


# --- status and check ---


@pytest.fixture
def asked(path: Path) -> Path:
    """Answers of two model versions, a refusal, a failure, an uncertain request, a refused connection, one in flight."""
    from dataclasses import replace

    with ResponseStore.open(path) as store:
        ids = store.begin(LIVE, ["a", "b"], price=0.001, cap=None)
        store.record_answer(ids[0], answer(), 0.1)
        store.record_answer(ids[1], replace(answer(), parsed=replace(answer().parsed, model_version="v2")), 0.1)
        for sha256, outcome in (
            ("c", error(ErrorKind.REJECTED)),
            ("d", error(ErrorKind.TRANSIENT)),
            ("e", error(ErrorKind.TRANSIENT, uncertain=True)),
            ("e", error(ErrorKind.TRANSIENT, sent=False)),
        ):
            (attempt,) = store.begin(LIVE, [sha256], price=0.001, cap=None)
            store.record_error(attempt, outcome, 0.1)
        store.begin(LIVE, ["f"], price=0.001, cap=None)
    return path


def test_the_status_says_what_there_is_and_touches_nothing(asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = asked.read_bytes()
    code, out, _ = said(capsys, "--store", str(asked), "--status", "--check")
    assert code == 0
    assert out.splitlines() == [
        "campaign default, aws, live (MaxLabels=10)",
        "  images:   6 asked about: 2 answered, 1 refused, 1 failed, 2 uncertain",
        "  requests: 5 sent, 2 uncertain (may have been billed), 1 of them in flight when the program ended, "
        "1 never sent (not counted)",
        "  spent:    $0.0060: $0.0020 for certain, $0.0040 perhaps",
        "  models:   v1 (1), v2 (1); the vendor's model has changed, and the answers are kept apart",
        "Prices are list prices of 2026-11-23. Every error counts as spent, but for these:",
        "  not billed by aws: credentials, quota, throttled",
        f"{asked}: sound",
    ]
    assert asked.read_bytes() == before
    assert (
        "nothing was asked of google yet" in said(capsys, "--store", str(asked), "--status", "--provider", "google")[1]
    )


def test_what_was_sent_when_no_price_was_known_is_not_for_nothing(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ResponseStore.open(path) as store:
        for sha256 in "ab":
            (attempt,) = store.begin(LIVE, [sha256], price=None, cap=None)
            store.record_answer(attempt, answer(), 0.1)
    assert "  spent:    2 images of unknown price\n" in said(capsys, "--store", str(path), "--status")[1]
    with ResponseStore.open(path) as store:
        (attempt,) = store.begin(LIVE, ["c"], price=0.001, cap=None)
        store.record_answer(attempt, answer(), 0.1)
        (attempt,) = store.begin(LIVE, ["d"], price=None, cap=None)
        store.record_error(attempt, error(ErrorKind.THROTTLED), 0.1, unbilled=True)
    spent = "at least $0.0010: $0.0010 for certain, $0.00 perhaps, and 2 images of unknown price"
    assert f"  spent:    {spent}\n" in said(capsys, "--store", str(path), "--status")[1]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--status", "--images", "x"], "--status stands with --store"),
        (["--check"], "--check stands with --status"),
        (["--provider", "aws"], "Missing option '--images'"),
        (["--images", "x"], "Missing option '--provider'"),
    ],
)
def test_a_status_is_no_query(path: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str) -> None:
    code, _, err = said(capsys, "--store", str(path), *words)
    assert (code, complaint in err) == (2, True)
    assert not path.exists()


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        ("DELETE FROM responses WHERE sha256 = 'a'", "1 answered attempts without a response"),
        ("UPDATE responses SET sha256 = 'x' WHERE sha256 = 'a'", "1 responses without an answered attempt of the same"),
        ("UPDATE attempts SET outcome = 'error' WHERE sha256 = 'a'", "1 responses without an answered attempt"),
        ("UPDATE attempts SET finished_at = NULL WHERE sha256 = 'a'", "1 attempts with an outcome and no time"),
        ("UPDATE attempts SET request = 99 WHERE sha256 = 'd'", "1 attempts of no request"),
        (
            "UPDATE attempts SET billing = 'no' WHERE sha256 = 'a'",
            "1 answers or uncertain attempts that are not counted",
        ),
        ("UPDATE attempts SET sent = 0 WHERE sha256 = 'd'", "1 billed attempts that were never sent"),
        ("UPDATE responses SET labels = '[' WHERE sha256 = 'a'", "1 responses whose labels are not JSON"),
    ],
)
def test_the_check_finds_what_contradicts_itself(
    asked: Path, capsys: pytest.CaptureFixture[str], harm: str, problem: str
) -> None:
    with sqlite3.connect(asked) as connection:
        connection.execute(harm)
    code, out, err = said(capsys, "--store", str(asked), "--status", "--check")
    assert code == 3
    assert f"not done: {asked}: {problem}" in err
    assert "sound" not in out


def test_the_check_finds_a_page_that_was_overwritten(asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(asked) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'spent_by'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with asked.open("r+b") as file:
        file.seek((page - 1) * size + size - 200)
        file.write(b"\xff" * 200)
    with ResponseStore.open(asked, read_only=True) as store:
        assert status.check(store)


# --- what may happen to the file ---

IN_FLIGHT = """
import os, sys
from pathlib import Path
from apibench.query.store import ResponseStore
from tests.fakes import KEY, answer
store = ResponseStore.open(Path(sys.argv[1]))
first, second = store.begin(KEY, ["a", "b"], price=0.001, cap=None)
store.record_answer(first, answer(), 0.1)
os.kill(os.getpid(), 9)
"""


def test_a_log_left_by_a_crash_is_read_wherever_it_is_copied_to(path: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", IN_FLIGHT, str(path)], check=False)
    log = path.with_name("s.sqlite-wal")
    assert log.stat().st_size > 0
    (tmp_path / "copy").mkdir()
    for file in (path, log):
        shutil.copy(file, tmp_path / "copy" / file.name)
    for found in (path, tmp_path / "copy" / path.name):
        with ResponseStore.open(found, read_only=True) as store:
            (standing,) = status.standings(store)
            assert (standing.images["answered"], standing.images["uncertain"], standing.in_flight) == (1, 1, 1)
            assert status.check(store) == []
    with ResponseStore.open(path) as store:
        assert store.spent("default") == pytest.approx(0.002)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_may_only_be_read_can_be_looked_at_and_not_asked_into(asked: Path) -> None:
    asked.chmod(0o400)
    asked.parent.chmod(0o500)
    try:
        with ResponseStore.open(asked, read_only=True) as store:
            assert status.check(store) == []
        with pytest.raises(ApibenchError, match="cannot be"):
            ResponseStore.open(asked)
    finally:
        asked.parent.chmod(0o700)


def test_a_wall_clock_that_jumps_back_costs_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apibench.query import store as module

    with ResponseStore.open(path) as store:
        (attempt,) = store.begin(KEY, ["a"], price=0.001, cap=None)
        monkeypatch.setattr(module, "now", lambda: "1970-01-01T00:00:00.000+00:00")
        store.record_answer(attempt, answer(), 0.1)
        assert store.settled(KEY) == {"a": "answered"}
        assert status.check(store) == []
