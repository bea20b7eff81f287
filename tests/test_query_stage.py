"""The query stage: what it needs before anything is sent, and a store that something went wrong with."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from apibench import progress
from apibench import run as runs
from apibench.errors import ApibenchError, ExitCode
from apibench.imageset import ImageSet, SetWriter
from apibench.query import registry, stage
from apibench.query.contract import EncodedImage, ErrorKind, ImageLimits, Outcome
from apibench.query.engine import HaltReason
from apibench.query.forecast import Before, Plan
from apibench.query.policy import OnUncertain
from apibench.query.schema import SCHEMA
from apibench.query.stage import QuerySettings
from tests.conftest import paint
from tests.fakes import QUICK, FakeAdapter, FakeProvider, answer, error

QUERY = QuerySettings("fake", policy=QUICK, prices=None)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    """A provider behind the stage, instead of one with an SDK."""
    made = FakeProvider()

    @contextmanager
    def connect(*_: object) -> Iterator[FakeProvider]:
        yield made

    monkeypatch.setattr(registry, "adapter", lambda name: FakeAdapter())
    monkeypatch.setattr(stage, "_connect", connect)
    return made


def test_an_answered_set_needs_nobody(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s.sqlite"
    assert stage.query_images([clean_set], store, QUERY).answered == 5
    before = store.read_bytes()
    monkeypatch.setattr(stage, "_connect", lambda *_: pytest.fail("connected"))
    assert stage.query_images([clean_set], store, QUERY).stored == 5
    assert store.read_bytes() == before, "not even opened for writing"
    assert str(stage.plan([clean_set], store, QUERY)).startswith("fake: 5 images, 5 stored, 0 calls")

    moved = ImageSet(clean_set.folder.rename(tmp_path / "moved"), clean_set.records)
    assert stage.query_images([moved], store, QUERY).stored == 5
    with sqlite3.connect(store) as connection:
        assert connection.execute("SELECT DISTINCT folder FROM images").fetchall() == [("moved",)]


def test_a_set_that_holds_an_image_twice_is_answered_once(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = dataclasses.replace(clean_set.records[0], id="twin", file="photo0.png")
    twice = ImageSet(clean_set.folder, [*clean_set.records, twin])
    stage.query_images([twice], tmp_path / "s.sqlite", QUERY)
    assert provider.hits == 5
    monkeypatch.setattr(stage, "_connect", lambda *_: pytest.fail("connected"))
    assert stage.query_images([twice], tmp_path / "s.sqlite", QUERY).stored == 5


@pytest.mark.parametrize("harm", ["empty", "hot journal"])
def test_a_store_cut_off_in_its_making_is_made_again(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path, harm: str
) -> None:
    store = tmp_path / "s.sqlite"
    if harm == "empty":
        store.touch()
    else:
        import subprocess
        import sys

        code = (
            "import sqlite3, os, sys\n"
            "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "c.execute('PRAGMA cache_size = 1'); c.execute('BEGIN')\n"
            "for statement in sys.argv[2].split(';')[:3]: c.execute(statement)\n"
            "c.execute('CREATE TABLE filler (x)')\n"
            "c.executemany('INSERT INTO filler VALUES (?)', [(b'x' * 4000,)] * 50)\n"
            "os.kill(os.getpid(), 9)\n"
        )
        subprocess.run([sys.executable, "-c", code, str(store), SCHEMA], check=False)
        assert store.with_name("s.sqlite-journal").stat().st_size > 0
    assert stage.plan([clean_set], store, QUERY).calls == 5 if harm == "empty" else True
    assert stage.query_images([clean_set], store, QUERY).answered == 5


def test_without_credentials_not_even_a_store_is_made(
    clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoKeys(FakeAdapter):
        def create(self, options: object) -> FakeProvider:
            raise error(ErrorKind.CREDENTIALS)

    monkeypatch.setattr(registry, "adapter", lambda name: NoKeys())
    with pytest.raises(ApibenchError, match="fake: scripted credentials"):
        stage.query_images([clean_set], tmp_path / "s.sqlite", QUERY)
    assert not list(tmp_path.glob("s.sqlite*"))


def test_two_endpoints_of_ones_own_are_two_providers(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path
) -> None:
    for endpoint in ("https://a.example", "https://b.example", "https://b.example:8443", "https://b.example/eu"):
        provider.host = endpoint.removeprefix("https://").partition("/")[0].partition(":")[0]
        query = QuerySettings("fake", endpoint=endpoint, policy=QUICK)
        assert stage.query_images([clean_set], tmp_path / "s.sqlite", query).answered == 5
        assert stage.query_images([clean_set], tmp_path / "s.sqlite", query).stored == 5
    assert provider.hits == 20


def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, images: ImageSet) -> runs.RunResult:
    from apibench.recipe import Recipe

    monkeypatch.setattr(runs, "providers", lambda recipe: (["fake"], []))
    monkeypatch.setattr(runs, "query_settings", lambda recipe, name: QUERY)
    result = runs.RunResult(tmp_path / "s.sqlite")
    runs.ask(Recipe(name="x"), [images], lambda text: None, result)
    return result


def test_a_run_ends_with_the_code_a_query_ends_with(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = clean_set.records[2].sha256

    def script(hit: int, image: EncodedImage) -> Outcome:
        return error(ErrorKind.REJECTED) if image.sha256 == bad else answer()

    provider._script = script
    assert asked(monkeypatch, tmp_path, clean_set).exit_code is ExitCode.SOME_FAILED
    again = asked(monkeypatch, tmp_path, clean_set)
    assert again.exit_code is ExitCode.SOME_FAILED, "an image refused before is still without an answer"
    assert "photo2" in again.problems[0]


def test_a_run_whose_keys_are_refused_has_done_nothing(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider._script = lambda hit, image: error(ErrorKind.CREDENTIALS)
    result = asked(monkeypatch, tmp_path, clean_set)
    assert result.exit_code is ExitCode.NOTHING_DONE
    assert result.problems == ["fake: scripted credentials"]


@pytest.mark.parametrize(
    "wrong", [{"timeout": float("nan")}, {"per_second": float("inf")}, {"timeout": -1.0}, {"max_cost": float("nan")}]
)
def test_numbers_that_are_none_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ApibenchError, match="must be a number above 0"):
        QuerySettings("fake", **wrong)  # type: ignore[arg-type]


# --- the forecast ---


def plan_of(**about: object) -> Plan:
    given: dict[str, object] = {
        "provider": "aws",
        "origin": "live",
        "images": 1000,
        "calls": 1000,
        "price": 0.001,
        "prices_as_of": "2026-11-23",
    }
    return Plan(**(given | about))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"rate": 5.0, "rate_verified": False}, "at least 3 min at 5 calls a second, which is not verified)"),
        ({"rate": 20.0}, ", at least 50 s at 20 calls a second)"),
        ({"rate": 0.1}, ", at least 2.8 h at 0.1 calls a second)"),
        ({"rate": 30.0, "calls": 5}, ", less than a second at 30 calls a second)"),
        (
            {"rate": 30.0, "calls": 0, "before": Before(answered=1000)},
            "0 calls to send (about $0.00 by the list of 2026-11-23, retries",
        ),
        ({"before": Before(answered=3)}, "aws: 1000 images, 3 stored, 1000 calls"),
        ({"before": Before(answered=3, refused=2, left=1)}, "3 stored, 2 refused, 1 left uncertain, 1000 calls"),
        ({"before": Before(answered=300, refused=200, left=100)}, "(about $0.4000 by"),
        ({"price": None}, "1000 calls to send (price unknown)"),
        ({"price": 0.0015}, "(about $1.50 by the list"),
        ({"calls": 63}, "63 calls to send (about $1.00 by"),
        ({"origin": "emulated", "price": 0.0}, "(emulated: costs nothing)"),
        ({"max_calls": 2000, "before": Before(calls=12)}, "; --max-calls 2000, 12 used"),
        ({"max_calls": 1000, "before": Before(calls=12)}, "; --max-calls 1000, 12 used: it stops there before the end"),
        ({"max_cost": 5.0, "before": Before(spent=0.25)}, "; --max-cost 5, $0.2500 spent"),
        ({"max_cost": 1.0, "before": Before(spent=0.25)}, "spent: it stops there before the end"),
    ],
)
def test_a_forecast_says_calls_cost_time_and_caps(about: dict[str, object], says: str) -> None:
    assert says in str(plan_of(**about))


def test_the_forecast_comes_before_the_first_request(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path
) -> None:
    said: list[tuple[str, int]] = []
    query = dataclasses.replace(QUERY, max_calls=3)
    for _ in range(2):
        stage.query_images(
            [clean_set], tmp_path / "s.sqlite", query, say=lambda line: said.append((line, provider.hits))
        )
    stops = "less than a second at 5 calls a second); --max-calls 3"
    assert said == [
        (
            f"forecast: fake: 5 images, 0 stored, 5 calls to send (price unknown, {stops}, 0 used: it stops there before the end",
            0,
        ),
        (
            f"forecast: fake: 5 images, 3 stored, 2 calls to send (price unknown, {stops}, 3 used: it stops there before the end",
            3,
        ),
    ]


def test_a_query_passes_on_what_it_was_told(provider: FakeProvider, clean_set: ImageSet, tmp_path: Path) -> None:
    provider.info = dataclasses.replace(provider.info, max_batch=2)
    prices = tmp_path / "prices.json"
    prices.write_text('{"per_1000": {"fake": {"price": 100}}}')
    query = dataclasses.replace(QUERY, batch=9, max_cost=0.4, prices=prices, concurrency=1)
    report = stage.query_images([clean_set], tmp_path / "s.sqlite", query)
    assert (provider.hits, report.answered, report.halted) == (2, 4, HaltReason.CAP)
    provider._script = lambda *_: error(ErrorKind.TRANSIENT, uncertain=True)
    query = dataclasses.replace(query, max_cost=None, on_uncertain=OnUncertain.STOP)
    assert len(stage.query_images([clean_set], tmp_path / "s.sqlite", query).left) == 1
    provider._script = lambda *_: pytest.fail("sent")
    assert stage.query_images([clean_set], tmp_path / "s.sqlite", query).exit_code is ExitCode.SOME_FAILED
    assert stage.plan([clean_set], tmp_path / "s.sqlite", query).calls == 0


def test_a_cap_on_cost_needs_a_price(provider: FakeProvider, clean_set: ImageSet, tmp_path: Path) -> None:
    query = dataclasses.replace(QUERY, max_cost=1.0)
    with pytest.raises(ApibenchError, match="--max-cost 1: the price list has no price for fake"):
        stage.query_images([clean_set], tmp_path / "s.sqlite", query)
    assert (provider.hits, list(tmp_path.glob("s.sqlite*"))) == (0, [])


def test_the_price_is_of_whoever_really_answers(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter that names no hosts is taken for one that computes here, until its client has a host: then it costs money."""
    info = dataclasses.replace(FakeProvider.info, hosts=())
    monkeypatch.setattr(FakeAdapter, "info", info)
    provider.info = info
    query = dataclasses.replace(QUERY, max_cost=0.3, concurrency=1)
    with pytest.raises(ApibenchError, match=r"--max-cost 0\.3: the price list has no price for fake"):
        stage.query_images([clean_set], tmp_path / "s.sqlite", query)
    assert (provider.hits, list(tmp_path.glob("s.sqlite*"))) == (0, [])
    prices = tmp_path / "prices.json"
    prices.write_text('{"as_of": "2026-11-23", "per_1000": {"fake": {"price": 100}}}')
    said: list[str] = []
    query = dataclasses.replace(query, prices=prices)
    report = stage.query_images([clean_set], tmp_path / "s.sqlite", query, say=said.append)
    assert (report.answered, report.halted, provider.hits) == (3, HaltReason.CAP, 3)
    assert "5 calls to send (about $0.5000 by the list of 2026-11-23" in said[0]
    provider.host = ""  # an answer computed here is for nothing
    local = stage.query_images([clean_set], tmp_path / "local.sqlite", dataclasses.replace(query, prices=None))
    assert (local.answered, local.halted) == (5, None)


def test_a_cap_on_cost_cannot_hold_where_what_was_spent_is_unknown(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path
) -> None:
    store, prices = tmp_path / "s.sqlite", tmp_path / "prices.json"
    prices.write_text('{"per_1000": {"fake": {"price": 100}}}')
    provider._script = lambda hit, _: answer() if hit < 3 else error(ErrorKind.CREDENTIALS, sent=False)
    assert stage.query_images([clean_set], store, dataclasses.replace(QUERY, concurrency=1)).answered == 2
    provider._script = lambda *_: answer()
    capped = dataclasses.replace(QUERY, prices=prices, max_cost=1.0, concurrency=1)
    message = "--max-cost 1: 2 images of campaign 'default' were sent when no price was known"
    with pytest.raises(ApibenchError, match=message):
        stage.query_images([clean_set], store, capped)
    with pytest.raises(ApibenchError, match=message):
        stage.plan([clean_set], store, capped)
    assert provider.hits == 3, "nothing more was sent"
    assert stage.query_images([clean_set], store, dataclasses.replace(capped, campaign="another")).answered == 5
    assert stage.query_images([clean_set], store, dataclasses.replace(capped, max_cost=None, max_calls=9)).answered == 3


def test_a_rehearsal_uses_up_none_of_the_real_calls(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path
) -> None:
    store = tmp_path / "s.sqlite"
    rehearsal = dataclasses.replace(QUERY, emulated=True, max_calls=3, concurrency=1)
    real = dataclasses.replace(rehearsal, emulated=False)
    assert (stage.query_images([clean_set], store, rehearsal).halted, provider.hits) == (HaltReason.CAP, 3)
    assert (stage.query_images([clean_set], store, real).halted, provider.hits) == (HaltReason.CAP, 6)
    assert stage.query_images([clean_set], store, rehearsal).sent == 0, "over all starts"
    assert stage.query_images([clean_set], store, real).sent == 0
    assert "--max-calls 3, 3 used" in str(stage.plan([clean_set], store, real))


def test_an_emulator_is_on_this_machine_whatever_an_adapter_says(
    clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held by the stage: an adapter that sends an emulated call elsewhere would pay for it, with real photographs."""
    made = FakeProvider()
    monkeypatch.setattr(registry, "adapter", lambda name: FakeAdapter())
    monkeypatch.setattr(FakeAdapter, "create", lambda self, options: made, raising=False)
    monkeypatch.setattr(stage.probe, "check_emulator", lambda *_: None)
    query = dataclasses.replace(QUERY, emulated=True, endpoint="http://127.0.0.1:1")
    for made.host, named in (("fake.example", "fake.example"), ("8.8.8.8", "8.8.8.8"), ("", "no host at all")):
        with pytest.raises(ApibenchError, match=f"fake: emulated calls go to .* this machine, and not to {named}"):
            stage.query_images([clean_set], tmp_path / "s.sqlite", query)
    assert (made.hits, list(tmp_path.glob("s.sqlite*"))) == (0, [])
    for number, made.host in enumerate(("localhost", "127.0.0.1", "127.9.9.9", "::1")):
        assert stage.query_images([clean_set], tmp_path / f"{number}.sqlite", query).answered == 5


def test_a_cap_on_cost_can_be_rehearsed_and_uses_up_none_of_the_real_one(
    clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    made = FakeProvider()

    @contextmanager
    def connect(*_: object) -> Iterator[FakeProvider]:
        yield made

    monkeypatch.setattr(registry, "adapter", lambda name: FakeAdapter())
    monkeypatch.setattr(stage, "_connect", connect)
    prices, store = tmp_path / "prices.json", tmp_path / "s.sqlite"
    prices.write_text('{"as_of": "2026-11-23", "per_1000": {"fake": {"price": 100}}}')
    query = dataclasses.replace(QUERY, prices=prices, max_cost=0.3, concurrency=1)
    rehearsal = dataclasses.replace(query, emulated=True)
    report = stage.query_images([clean_set], store, rehearsal, say=said.append)
    assert (report.answered, report.halted, made.hits) == (3, HaltReason.CAP, 3)
    assert said == [
        f"emulator: {rehearsal.target} is being loaded",
        "forecast: fake: 5 images, 0 stored, 5 calls to send (emulated: costs nothing; --max-cost counts the list price, "
        "about $0.5000, as a rehearsal); --max-cost 0.3, $0.00 spent: it stops there before the end",
    ]
    assert stage.query_images([clean_set], store, rehearsal).sent == 0, "over all starts"
    assert stage.query_images([clean_set], store, dataclasses.replace(rehearsal, max_cost=None)).answered == 2
    real = stage.query_images([clean_set], store, query)
    assert (real.answered, real.halted) == (3, HaltReason.CAP), "of whose cap the rehearsal has used nothing"


@pytest.mark.parametrize(
    ("batch", "most", "note"),
    [
        (16, 1, "; --batch 16 does not hold for it: it takes one image a request"),
        (100, 16, "; --batch 100 does not hold for it: it takes at most 16 images a request"),
        (16, 16, ""),
        (1, 1, ""),
    ],
)
def test_a_batch_that_a_provider_does_not_take_is_said(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, batch: int, most: int, note: str
) -> None:
    monkeypatch.setattr(FakeAdapter, "info", dataclasses.replace(FakeProvider.info, max_batch=most))
    line = str(stage.estimate(dataclasses.replace(QUERY, batch=batch), 100))
    assert line.partition("second)")[2] == note


def test_the_progress_ends_where_the_images_do(
    provider: FakeProvider,
    clean_set: ImageSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where an image stands twice in what is asked, and one is refused."""
    monkeypatch.setattr(progress, "EVERY", 0.0)
    bad = clean_set.records[0].sha256
    provider._script = lambda _, image: error(ErrorKind.REJECTED) if image.sha256 == bad else answer()
    twin = dataclasses.replace(clean_set.records[1], id="twin", file="photo1.png")
    twice = ImageSet(clean_set.folder, [*clean_set.records, twin])
    stage.query_images([twice], tmp_path / "s.sqlite", QUERY)
    assert capsys.readouterr().err.splitlines()[-1] == "query fake: 5 of 5 (image)"


@pytest.mark.parametrize(
    ("about", "query", "rate", "at_a_time"),
    [
        ({"rate_per_second": 5.0}, {}, 5.0, 5),
        ({"rate_per_second": 30.0}, {}, 30.0, 30),
        ({"rate_per_second": 1 / 3}, {}, 1 / 3, 4),
        ({"rate_per_second": 500.0}, {}, 500.0, 64),
        ({"rate_per_second": 30.0}, {"per_second": 12.0}, 12.0, 12),
        ({"rate_per_second": 30.0}, {"concurrency": 2}, 30.0, 2),
        ({"rate_per_second": 30.0}, {"emulated": True}, None, 4),
        ({"rate_per_second": 30.0}, {"emulated": True, "per_second": 8.0}, 8.0, 8),
        ({"rate_per_second": 30.0, "images_per_second": 30.0, "max_batch": 16}, {"batch": 16}, 1.875, 4),
        ({"rate_per_second": 30.0, "images_per_second": 30.0, "max_batch": 4}, {"batch": 16}, 7.5, 8),
        ({"rate_per_second": 15.0, "max_batch": 128}, {"batch": 16}, 15.0, 15),
    ],
)
def test_rate_and_requests_at_a_time_follow_what_the_vendor_documents(
    about: dict[str, object], query: dict[str, object], rate: float | None, at_a_time: int
) -> None:
    info = dataclasses.replace(FakeProvider.info, **about)  # type: ignore[arg-type]
    asked = dataclasses.replace(QUERY, **query)  # type: ignore[arg-type]
    assert (asked.rate(info), asked.at_a_time(info)) == (rate, at_a_time)


def test_the_query_of_a_recipe_has_the_same_caps() -> None:
    from apibench.recipe import Recipe

    section = {"max_calls": 7, "max_cost": 0.5, "on_uncertain": "stop", "batch": 4}
    query = runs.query_settings(Recipe.model_validate({"name": "x", "query": section}), "aws")
    assert (query.max_calls, query.max_cost, query.on_uncertain, query.batch, query.concurrency) == (
        7,
        0.5,
        OnUncertain.STOP,
        4,
        None,
    )
    default = runs.query_settings(Recipe(name="x"), "aws")
    assert (default.max_cost, default.on_uncertain, default.batch) == (None, OnUncertain.ASK_AGAIN, 1)
    for wrong in ({"max_cost": 0}, {"max_cost": float("inf")}, {"on_uncertain": "retry"}, {"batch": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Recipe.model_validate({"name": "x", "query": wrong})


def test_what_the_provider_would_not_take_is_never_sent_and_looked_at_again(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, sound = tmp_path / "s.sqlite", provider.info
    provider.info = dataclasses.replace(sound, limits=ImageLimits(max_side=50))
    monkeypatch.setattr(FakeAdapter, "info", provider.info)
    report = stage.query_images([clean_set], store, QUERY)
    assert (provider.hits, report.sent, len(report.rejected)) == (0, 0, 5)
    assert "64 x 48 pixels: it takes no side above 50" in report.rejected[0][1]
    before = store.read_bytes()
    again = stage.query_images([clean_set], store, QUERY)
    assert (again.sent, again.images, len(again.rejected_before), again.exit_code) == (0, 5, 5, ExitCode.SOME_FAILED)
    assert again.rejected_before[0][1] == "Fake: 64 x 48 pixels: it takes no side above 50 (not sent)"
    assert store.read_bytes() == before, "nobody was connected, and nothing written"
    assert "5 images, 0 stored, 5 refused, 0 calls" in str(stage.plan([clean_set], store, QUERY))

    more = SetWriter(tmp_path / "more", {"stage": "import"})
    more.write("small", paint(9, 40, 40), variant="clean", label=0, label_source="given")
    both = [clean_set, more.finish(["small"])]
    mixed = stage.query_images(both, store, QUERY)  # type: ignore[arg-type]
    assert (mixed.images, mixed.answered, len(mixed.problems), provider.hits) == (6, 1, 5, 1)
    with sqlite3.connect(store) as connection:
        assert connection.execute("SELECT COUNT(*) FROM attempts").fetchone() == (6,), "a refusal is noted once"

    provider.info = sound
    monkeypatch.setattr(FakeAdapter, "info", sound)
    assert "6 images, 1 stored, 5 calls" in str(stage.plan(both, store, QUERY))  # type: ignore[arg-type]
    assert (stage.query_images(both, store, QUERY).answered, provider.hits) == (5, 6)  # type: ignore[arg-type]
