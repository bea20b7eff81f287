"""The store: nothing paid for is lost or overwritten, whatever kills its writer."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from apibench.errors import ApibenchError
from apibench.imageset import ImageSet
from apibench.query.contract import Answer, ErrorKind, Label, Parsed, ProviderError
from apibench.query.store import CapReachedError, ResponseStore, canonical
from tests.fakes import KEY, answer, error


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.sqlite"


def test_intent_comes_first_and_the_raw_answer_is_kept_to_the_byte(path: Path) -> None:
    raw = b'{"labels": ["Dog"],  "odd spacing": "\xc3\xbc" }\n'
    with ResponseStore.open(path) as store:
        (attempt,) = store.begin(KEY, ["a" * 64], price=0.001, cap=None)
        assert rows(path, "SELECT outcome, finished_at, price FROM attempts") == [(None, None, 0.001)]
        import dataclasses

        store.record_answer(attempt, dataclasses.replace(answer(), raw=raw), 0.25)
        assert store.settled(KEY) == {"a" * 64: "answered"}
    assert rows(path, "SELECT raw, model_version, request_id, latency FROM responses") == [
        (raw, "v1", "request-1", 0.25)
    ]
    assert rows(path, "SELECT outcome, attempts, price FROM v_outcomes") == [("answered", 1, 0.001)]


def test_a_response_is_never_overwritten(path: Path) -> None:
    with ResponseStore.open(path) as store:
        first, second = store.begin(KEY, ["a", "a"], price=None, cap=None)
        store.record_answer(first, answer("Dog"), 0.1)
        with pytest.raises(ApibenchError, match="UNIQUE"):
            store.record_answer(second, answer("Cat"), 0.1)
        with pytest.raises(AssertionError):
            store.record_error(first, error(ErrorKind.TRANSIENT), 0.1)
    assert b"Dog" in rows(path, "SELECT raw FROM responses")[0][0]  # type: ignore[operator]
    assert rows(path, "SELECT COUNT(*) FROM responses") == [(1,)]


def test_outcomes_tell_answers_refusals_and_failures_apart(path: Path) -> None:
    with ResponseStore.open(path) as store:
        given: dict[str, list[ErrorKind | None]] = {
            "answered": [ErrorKind.THROTTLED, None],
            "rejected": [ErrorKind.REJECTED],
            "failed": [ErrorKind.TRANSIENT, ErrorKind.THROTTLED],
        }
        for sha, kinds in given.items():
            for kind in kinds:
                (attempt,) = store.begin(KEY, [sha], price=None, cap=None)
                if kind is None:
                    store.record_answer(attempt, answer(), 0.1)
                else:
                    store.record_error(attempt, error(kind, code="X", status=400, raw=b"body"), 0.1)
        assert store.settled(KEY) == {"answered": "answered", "rejected": "rejected"}
        assert store.calls("default") == 5
        assert store.calls("another") == 0
    found = {row[0]: row[1:] for row in rows(path, "SELECT sha256, outcome, attempts, error_kind FROM v_outcomes")}
    assert found["answered"][:2] == ("answered", 2)
    assert found["rejected"] == ("rejected", 1, "rejected")
    assert found["failed"] == ("failed", 2, "throttled")


def test_the_cap_is_exact_under_eight_threads(path: Path) -> None:
    with ResponseStore.open(path) as store:
        got: list[object] = []

        def spend() -> None:
            for i in range(10):
                try:
                    got.append(store.begin(KEY, [f"{threading.get_ident()}-{i}"], price=None, cap=37))
                except CapReachedError as cap:
                    got.append(str(cap))

        threads = [threading.Thread(target=spend) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(isinstance(ids, list) for ids in got) == store.calls("default") == 37
        assert got.count("--max-calls 37") == 80 - 37


KILLED = """
import os, sys
from pathlib import Path
from apibench.query.store import ResponseStore
from tests.fakes import KEY, answer
store = ResponseStore.open(Path(sys.argv[1]))
for i in range(10):
    (attempt,) = store.begin(KEY, [f"image{i}"], price=None, cap=None)
    if i == 7:
        print("in flight", flush=True)
        os.kill(os.getpid(), 9)
    store.record_answer(attempt, answer(f"label {i}"), 0.1)
"""


def test_a_kill_leaves_a_sound_store_and_an_uncertain_attempt(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with ResponseStore.open(path) as store:
        assert len(store.settled(KEY)) == 7
        assert store.calls("default") == 8, "the request in flight counts as spent"
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "SELECT sha256, error_message FROM attempts WHERE outcome = 'uncertain'") == [
        ("image7", "the program ended before the answer was stored")
    ]


def test_a_second_writer_is_refused_and_readers_are_not(path: Path) -> None:
    with ResponseStore.open(path) as store:
        store.begin(KEY, ["a"], price=None, cap=None)
        with pytest.raises(ApibenchError, match="another query is writing to this store"):
            ResponseStore.open(path)
        with ResponseStore.open(path, read_only=True) as reader:
            assert reader.calls("default") == 1
    ResponseStore.open(path).close()


def test_what_is_no_store_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"not a database, but somebody's file " * 100)
    before = path.read_bytes()
    with pytest.raises(ApibenchError, match=r"s\.sqlite: .*not"):
        ResponseStore.open(path)
    assert path.read_bytes() == before


def test_a_foreign_database_and_another_version_are_refused(path: Path) -> None:
    rows(path, "CREATE TABLE precious (x)")
    with pytest.raises(ApibenchError, match="not a response store"):
        ResponseStore.open(path)
    path.unlink()
    ResponseStore.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = '99'")
    for read_only, does in ((False, "writes version 2"), (True, "reads versions 1 to 2")):
        with pytest.raises(ApibenchError, match=f"schema version 99; this apibench {does}"):
            ResponseStore.open(path, read_only=read_only)


def test_another_programs_database_with_a_version_is_refused(path: Path) -> None:
    rows(path, "CREATE TABLE meta (key, value)")
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO meta VALUES ('schema_version', '1')")
    before = path.read_bytes()
    with pytest.raises(ApibenchError, match="not a response store"):
        ResponseStore.open(path)
    assert path.read_bytes() == before


def test_a_store_whose_making_was_killed_is_made_again(path: Path) -> None:
    rows(path, "PRAGMA user_version = 1")  # a header and no table: what is left when the schema was rolled back
    assert path.stat().st_size > 0
    with ResponseStore.open(path) as store:
        assert store.calls("default") == 0


def test_a_closed_store_is_one_file_that_needs_no_writing_to_read(path: Path) -> None:
    with ResponseStore.open(path) as store:
        store.begin(KEY, ["a"], price=None, cap=None)
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, f"{path.name}.lock"]
    assert path.read_bytes()[18:20] == b"\x01\x01", "the header says rollback journal, not write-ahead log"
    with ResponseStore.open(path, read_only=True) as reader:
        assert reader.calls("default") == 1
    assert not list(path.parent.glob("*-*")), "reading left nothing beside it"


def test_closing_under_a_readers_eyes_loses_nothing(path: Path) -> None:
    store = ResponseStore.open(path)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM attempts").fetchall()
    store.begin(KEY, ["a"], price=None, cap=None)
    store.close()
    reader.close()
    with ResponseStore.open(path) as again:
        assert again.calls("default") == 1


def test_a_link_to_a_store_is_under_the_same_lock(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.sqlite"
    link.symlink_to(path)
    with ResponseStore.open(path), pytest.raises(ApibenchError, match="another query"):
        ResponseStore.open(link)


def test_text_that_no_database_takes_does_not_lose_an_answer(path: Path) -> None:
    odd = "half \ud800"
    with ResponseStore.open(path) as store:
        first, second = store.begin(KEY, ["a", "b"], price=None, cap=None)
        store.record_answer(first, Answer(b"raw", Parsed((Label(odd, 0.5),), odd), odd), 0.1)
        store.record_error(second, ProviderError(ErrorKind.PROTOCOL, odd, code=odd), 0.1)
    assert rows(path, "SELECT raw, request_id FROM responses") == [(b"raw", "half ?")]
    assert str(rows(path, "SELECT error_message FROM attempts WHERE sha256 = 'b'")[0][0]).startswith("half")


def test_a_missing_store_is_not_made_by_reading(path: Path) -> None:
    with pytest.raises(ApibenchError, match="no such store"):
        ResponseStore.open(path, read_only=True)
    assert not path.exists()


def test_a_full_disk_is_one_line_and_keeps_what_is_stored(path: Path) -> None:
    with ResponseStore.open(path) as store:
        (attempt,) = store.begin(KEY, ["a"], price=None, cap=None)
        store.record_answer(attempt, answer(), 0.1)
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to a full disk
        many = [f"{i}" * 50 for i in range(1000)]
        with pytest.raises(ApibenchError, match="full") as caught:
            store.begin(KEY, many, price=None, cap=None)
        assert "What is stored already is kept" in str(caught.value)
        assert store.settled(KEY) == {"a": "answered"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ApibenchError, match="locked"):
        ResponseStore.open(tmp_path / "locked" / "s.sqlite")


def test_images_are_remembered_relative_to_the_store(path: Path, clean_set: ImageSet) -> None:
    with ResponseStore.open(path) as store:
        store.remember(clean_set)
        store.remember(clean_set)
    found = rows(path, "SELECT image_id, variant, label, folder, file FROM images ORDER BY image_id")
    assert found == [(f"photo{i}", "clean", i, "clean", f"photo{i}.png") for i in range(5)]


def test_settings_are_canonical() -> None:
    assert canonical({"b": 1, "a": 2.5}) == canonical({"a": 2.5, "b": 1}) == '{"a":2.5,"b":1}'
