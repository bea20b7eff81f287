"""Whose answer it is: the key of a query, which holds no secret, and what is refused before anything is sent or written."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from apibench.cli import cli
from apibench.errors import ApibenchError
from apibench.imageset import ImageSet
from apibench.query import keys, pricing, registry, stage
from apibench.query.stage import QuerySettings
from apibench.terminal import run_command
from tests.fakes import QUICK, FakeAdapter, FakeProvider

QUERY = QuerySettings("fake", policy=QUICK)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    made = FakeProvider()
    monkeypatch.setattr(registry, "adapter", lambda name: FakeAdapter())
    monkeypatch.setattr(registry, "names", lambda: ["fake"])
    monkeypatch.setattr(FakeAdapter, "create", lambda self, options: made, raising=False)
    return made


# --- an endpoint of one's own ---


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("https://gw.example", "gw.example"),
        ("https://GW.Example./", "gw.example"),
        ("https://gw.example:443", "gw.example"),
        ("http://gw.example:80", "gw.example"),
        ("https://gw.example:80", "gw.example:80"),
        ("https://user:password@gw.example:8443", "gw.example:8443"),
        ("https://gw.example/eu/", "gw.example/sha256-"),
        ("https://gw.example?tenant=a", "gw.example/sha256-"),
        ("https://0123456789abcdef0123456789abcdef.example", "sha256-"),
    ],
)
def test_an_address_is_its_host_and_port_and_nothing_that_may_be_a_key(endpoint: str, address: str) -> None:
    found = keys.address_of(endpoint)
    name, mark, rest = found.partition("sha256-")
    assert name + mark == address
    assert len(rest) == (12 if mark else 0)


def test_addresses_that_differ_in_what_is_hashed_are_apart() -> None:
    endpoints = (
        "https://gw.example/eu",
        "https://gw.example/us",
        "https://gw.example",
        "https://gw.example/eu?tenant=a",
    )
    assert len({keys.address_of(endpoint) for endpoint in endpoints}) == 4


def test_a_key_in_an_endpoints_path_is_not_in_the_store(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "k3y-Aa9_secret" + "-of-the-gateway"
    monkeypatch.setenv("VISION_KEY", secret)
    provider.host = "gw.example"
    query = dataclasses.replace(QUERY, endpoint=f"https://gw.example/{secret}")
    assert stage.query_images([clean_set], tmp_path / "s.sqlite", query).answered == 5
    assert secret.encode() not in (tmp_path / "s.sqlite").read_bytes()
    assert stage.query_images([clean_set], tmp_path / "s.sqlite", query).stored == 5


def test_an_endpoint_spelt_otherwise_is_not_paid_again(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path
) -> None:
    for endpoint in ("https://gw.example", "https://gw.example:443", "https://gw.example.", "https://GW.example/"):
        provider.host = "gw.example." if endpoint.endswith(".") else "gw.example"
        stage.query_images([clean_set], tmp_path / "s.sqlite", dataclasses.replace(QUERY, endpoint=endpoint))
    assert provider.hits == 5


# --- what is refused ---


def test_a_recording_is_not_the_store(provider: FakeProvider, clean_set: ImageSet, tmp_path: Path) -> None:
    store, link = tmp_path / "s.sqlite", tmp_path / "link.sqlite"
    stage.query_images([clean_set], store, QUERY)
    link.hardlink_to(store)
    before = store.read_bytes()
    for record in (store, tmp_path / "x" / ".." / "s.sqlite", link):
        query = dataclasses.replace(QUERY, record=record, campaign="another")
        for refused in (stage.plan, stage.query_images):
            with pytest.raises(ApibenchError, match="this is the store; record into a file of its own"):
                refused([clean_set], store, query)
    assert (store.read_bytes(), provider.hits) == (before, 5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"campaign": "\udcff"}, r"--campaign '\\udcff': must be text in UTF-8"),
        ({"per_second": 1e-10}, "--rate 1e-10: must be a request a day at least"),
        ({"timeout": 1e10}, r"--timeout 1e\+10: must be a day at most, 86400 seconds"),
    ],
)
def test_what_no_clock_and_no_store_can_hold_is_told(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ApibenchError, match=said):
        QuerySettings("fake", **wrong)  # type: ignore[arg-type]


def test_a_campaign_that_is_no_text_is_one_line(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--provider", "fake", "--images", str(clean_set.folder), "--store", str(tmp_path / "s.sqlite")]
    assert run_command(cli, ["query", *words, "--campaign", "\udcff"]) == 2
    assert capsys.readouterr().err == "apibench: --campaign '\\udcff': must be text in UTF-8\n"


def test_a_folder_whose_name_the_store_cannot_hold_is_told(
    provider: FakeProvider, clean_set: ImageSet, tmp_path: Path
) -> None:
    try:
        folder = clean_set.folder.rename(tmp_path / os.fsdecode(b"d\xff"))
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(
        ApibenchError, match=r"d\\udcff': a store notes where images are, so this must be text in UTF-8"
    ):
        stage.query_images([ImageSet(folder, clean_set.records)], tmp_path / "s.sqlite", QUERY)
    assert provider.hits == 0
    beside = folder / "s.sqlite"  # from there it has no name that could not be held
    assert stage.query_images([ImageSet(folder, clean_set.records)], beside, QUERY).answered == 5


def test_a_price_beyond_all_numbers_is_no_price(tmp_path: Path) -> None:
    prices = tmp_path / "p.json"
    prices.write_text('{"per_1000": {"fake": {"price": 1' + "0" * 400 + "}}}")
    with pytest.raises(ApibenchError, match=r"p\.json: not a price list"):
        pricing.price_of_image("fake", prices)
