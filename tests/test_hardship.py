"""Where machines let a query down: disks that are full or cannot be written, clocks that jump, two programs, another machine."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

import apibench
from apibench.commands.query import query as query_command
from apibench.errors import ExitCode
from apibench.imageset import ImageSet, SetWriter
from apibench.query import registry, stage, status
from apibench.query import store as store_module
from apibench.query.contract import ErrorKind
from apibench.query.engine import Engine, HaltReason, RetryPolicy
from apibench.query.stage import QuerySettings
from apibench.query.store import ResponseStore
from apibench.report import frames
from apibench.terminal import run_command
from tests.conftest import paint
from tests.fakes import KEY, QUICK, FakeAdapter, FakeProvider, answer, error, questions

ROOT = Path(apibench.__file__).parents[1]

# --- a disk ---

FULL = """
import resource, sys
from pathlib import Path
from apibench.query.engine import Engine
from apibench.query.store import ResponseStore
from tests.fakes import KEY, QUICK, FakeProvider, questions

provider = FakeProvider()
with ResponseStore.open(Path(sys.argv[1])) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    report = Engine(provider, store, KEY, policy=QUICK, concurrency=4).run(questions(300))
print(report.halted.value, report.exit_code.value, report.answered, provider.hits)
print(report.message)
"""


def test_files_that_cannot_grow_end_the_run_and_lose_nothing(tmp_path: Path) -> None:
    """The operating system's own refusal, for the store and its log alike; then there is room again."""
    path = tmp_path / "s.sqlite"
    ResponseStore.open(path).close()
    limit = path.stat().st_size + 150_000
    command = [sys.executable, "-c", FULL, str(path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    halted, code, answered, hits = done.stdout.splitlines()[0].split()
    assert (halted, int(code)) == ("store", ExitCode.SOME_FAILED)
    assert 0 < int(answered) < 300
    assert int(hits) <= int(answered) + 4, "at most what was in flight came back to a full disk"
    assert "cannot be written" in done.stdout
    assert "What is stored already is kept" in done.stdout
    with ResponseStore.open(path) as store:
        assert status.check(store) == []
        assert len(store.settled(KEY)) == int(answered)
        again = FakeProvider()
        assert Engine(again, store, KEY, policy=QUICK).run(questions(300)).answered == again.hits == 300 - int(answered)


OPENED = """
import os, sys
from pathlib import Path
from apibench.errors import ApibenchError
from apibench.query.store import ResponseStore
from tests.fakes import KEY
if os.geteuid() == 0:  # whom no permission binds: from here on, somebody else
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
with ResponseStore.open(Path(sys.argv[1]), read_only=True) as store:
    print(len(store.settled(KEY)), "stored")
try:
    ResponseStore.open(Path(sys.argv[1]))
except ApibenchError as error:
    print(error)
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that others may look into, with a store of one answer."""
    folder = Path(tempfile.mkdtemp())
    with ResponseStore.open(folder / "s.sqlite") as store:
        (attempt,) = store.begin(KEY, ["a"], price=None, cap=None)
        store.record_answer(attempt, answer(), 0.1)
    (folder / "s.sqlite.lock").unlink(missing_ok=True)
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["the folder", "the file"])
def test_a_store_that_cannot_be_written_is_read_and_said_to_be(public: Path, what: str) -> None:
    path = public / "s.sqlite"
    path.chmod(0o444 if what == "the file" else 0o666)
    public.chmod(0o777 if what == "the file" else 0o555)
    before = path.read_bytes()
    command = [sys.executable, "-c", OPENED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    stored, *said = done.stdout.splitlines()
    assert stored == "1 stored"
    assert len(said) == 1
    assert said[0].startswith(f"{path}: cannot be ")
    assert path.read_bytes() == before


# --- a clock ---


def test_a_clock_that_jumps_changes_no_order_no_rate_and_no_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock goes an hour forth and back with every look at it."""
    real, looks = time.time, count()

    def jumping() -> float:
        return real() + (3600 if next(looks) % 2 else -3600)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(
        store_module, "now", lambda: (datetime.now(UTC) + timedelta(seconds=jumping() - real())).isoformat()
    )
    told = error(ErrorKind.THROTTLED, retry_after=0.3)
    provider = FakeProvider(lambda hit, _: told if hit == 5 else answer())
    policy = RetryPolicy(first=0.001, longest=0.002)
    with ResponseStore.open(tmp_path / "s.sqlite") as store:
        begun = time.monotonic()
        engine = Engine(provider, store, KEY, policy=policy, per_second=40.0, concurrency=1)
        impatient = threading.Timer(30, engine._stop.set)  # who waits for the clock to come back waits for an hour
        impatient.start()
        report = engine.run(questions(20))
        impatient.cancel()
        took = time.monotonic() - begun
        assert (report.answered, report.sent, report.halted) == (20, 21, None)
        sent = store._connection.execute("SELECT sha256, started_at FROM attempts ORDER BY id").fetchall()
        assert [sha256 for sha256, _ in sent] == provider.seen, "written down in the order in which they went"
        assert [at for _, at in sent] != sorted(at for _, at in sent), "although the clock has jumped"
        assert status.check(store) == []
        latencies = [row[0] for row in store._connection.execute("SELECT latency FROM attempts")]
    assert all(0 <= latency < 2 for latency in latencies)
    gaps = [after - before for before, after in zip(provider.times, provider.times[1:], strict=False)]
    assert gaps[4] >= 0.3, "the vendor's wish"
    assert max(gaps) < 3, "and nobody waits for an hour"
    assert took > 20 / 40 + 0.3, "the rate is kept"


# --- two programs ---

ASKING = """
import sys
from pathlib import Path
from apibench.query.engine import Engine
from apibench.query.store import ResponseStore
from tests.fakes import KEY, QUICK, FakeProvider, answer, questions

def script(hit, _):
    if hit == 1:  # from here on in the middle of a call, until told to go on
        print("asking", flush=True)
        sys.stdin.readline()
    return answer()

with ResponseStore.open(Path(sys.argv[1])) as store:
    print(Engine(FakeProvider(script), store, KEY, policy=QUICK, concurrency=1).run(questions(40)).answered)
"""


@contextmanager
def connected(*_: object) -> Iterator[FakeProvider]:
    yield FakeProvider(lambda *_: pytest.fail("sent"))


def test_a_second_program_is_turned_away_before_it_sends_and_may_look(
    tmp_path: Path, clean_set: ImageSet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "adapter", lambda name: FakeAdapter())
    monkeypatch.setattr(stage, "_connect", connected)
    path = tmp_path / "s.sqlite"
    command = [sys.executable, "-c", ASKING, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "asking\n"
        words = ["--provider", "fake", "--images", str(clean_set.folder), "--store", str(path)]
        assert run_command(query_command, words) == ExitCode.NOTHING_DONE
        assert "another query is writing to this store" in capsys.readouterr().err
        assert run_command(query_command, ["--store", str(path), "--status", "--check"]) == ExitCode.DONE
        assert "sound" in capsys.readouterr().out
        assert other.poll() is None, "the first is at it all the while"
        said, _ = other.communicate("go on\n", timeout=60)
    assert said == "40\n"
    assert other.returncode == 0


# --- another machine ---


def test_a_store_that_was_copied_with_its_images_goes_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = FakeProvider()

    @contextmanager
    def connect(*_: object) -> Iterator[FakeProvider]:
        yield provider

    monkeypatch.setattr(registry, "adapter", lambda name: FakeAdapter())
    monkeypatch.setattr(stage, "_connect", connect)
    query = QuerySettings("fake", policy=QUICK, max_calls=6)
    home = tmp_path / "home"
    for name, numbers in (("first", range(3)), ("second", range(3, 7))):
        writer = SetWriter(home / "sets" / name, {"stage": "import"})
        for i in numbers:
            writer.write(f"photo{i}", paint(i), variant="clean", label=i, label_source="given")
        assert writer.finish(f"photo{i}" for i in numbers) is not None
    stage.query_images([ImageSet.load(home / "sets/first")], home / "store/s.sqlite", query)
    assert provider.hits == 3

    away = tmp_path / "another" / "machine"
    shutil.copytree(home, away)
    shutil.rmtree(home)
    sets, store = [ImageSet.load(away / "sets" / name) for name in ("first", "second")], away / "store/s.sqlite"
    with sqlite3.connect(store) as connection:
        places = connection.execute("SELECT folder, file FROM images").fetchall()
    assert len(places) == 3
    assert all((store.parent / folder / file).is_file() for folder, file in places), "found from where the store is now"
    assert str(stage.plan(sets, store, query)).startswith("fake: 7 images, 3 stored, 4 calls to send")
    report = stage.query_images(sets, store, query)
    assert (report.stored, report.answered, provider.hits, report.halted) == (3, 3, 6, HaltReason.CAP)
    assert len(set(provider.seen)) == 6, "nothing is asked twice"
    read = frames.read(store)
    assert len(read.images) == 6, "those asked about"
