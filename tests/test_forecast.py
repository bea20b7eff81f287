"""What a query would send, where there is no client yet, no image yet, or somebody asked before it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from apibench import run as runs
from apibench.imageset import ImageSet, SetWriter
from apibench.query import registry, stage
from apibench.query.contract import ImageLimits, ProviderInfo
from apibench.query.stage import QuerySettings
from apibench.recipe import Recipe
from tests.conftest import paint
from tests.fakes import QUICK, FakeAdapter, FakeProvider


class Provider(FakeProvider):
    """What a name is asked through: one fake for each, all of the same vendor's host."""

    def __init__(self, info: ProviderInfo) -> None:
        super().__init__(batch=info.max_batch)
        self.info = info


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.json"
    path.write_text('{"as_of": "2026-11-23", "per_1000": {"one": {"price": 10}, "two": {"price": 10}}}')
    return path


def install(monkeypatch: pytest.MonkeyPatch, **about: object) -> None:
    def adapter(name: str) -> FakeAdapter:
        found = FakeAdapter()
        found.info = dataclasses.replace(FakeProvider.info, name=name, **about)  # type: ignore[arg-type]
        found.create = lambda options: Provider(found.info)  # type: ignore[attr-defined]
        return found

    monkeypatch.setattr(registry, "adapter", adapter)


def made(folder: Path, count: int, seed: int = 0) -> ImageSet:
    writer = SetWriter(folder, {"stage": "import"})
    for i in range(count):
        writer.write(f"photo{i}", paint(seed + i), variant="clean", label=i, label_source="given")
    finished = writer.finish(f"photo{i}" for i in range(count))
    assert finished is not None
    return finished


@pytest.fixture
def recipe(tmp_path: Path, prices: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Of two providers and two image sets, of which the clean one is there."""
    found = Recipe.model_validate({"name": "x", "out": str(tmp_path / "run"), "images": {"source": str(tmp_path)}})
    made(found.folder / "sets" / "clean", 5)
    monkeypatch.setattr(runs, "providers", lambda recipe: (["one", "two"], []))
    monkeypatch.setattr(runs, "variants", lambda recipe: [runs.Variant("clean"), runs.Variant("later", "clean")])
    monkeypatch.setattr(runs, "_count", lambda recipe: 5)
    monkeypatch.setattr(
        runs,
        "query_settings",
        lambda recipe, name: QuerySettings(name, policy=QUICK, max_calls=15, max_cost=0.12, prices=prices),
    )
    install(monkeypatch)
    return found


def test_a_set_that_is_not_made_yet_does_not_hide_what_is_stored(recipe: Recipe) -> None:
    clean = ImageSet.load(recipe.folder / "sets" / "clean")
    assert stage.query_images([clean], recipe.folder / "store.sqlite", runs.query_settings(recipe, "one")).answered == 5
    line = str(runs.plans(recipe)[0])
    assert line.startswith("one: 10 images, 5 stored, 5 calls to send (about $0.0500 by")
    assert line.endswith("--max-calls 15, 5 used; --max-cost 0.12, $0.0500 spent")


def test_providers_of_a_recipe_share_its_caps(recipe: Recipe) -> None:
    first, second = map(str, runs.plans(recipe))
    assert first.endswith("--max-calls 15, 0 used; --max-cost 0.12, $0.00 spent")
    assert second.endswith(
        "--max-calls 15, 0 used and 10 for those asked before it: it stops there before the end; "
        "--max-cost 0.12, $0.00 spent and $0.1000 for those asked before it: it stops there before the end"
    )


def test_a_source_that_is_a_set_is_counted_where_it_is(recipe: Recipe, tmp_path: Path) -> None:
    source = made(tmp_path / "elsewhere", 5, seed=20)
    (recipe.folder / "sets" / "clean").rename(tmp_path / "gone")
    images = recipe.images.model_copy(update={"source": str(source.folder), "limit": 3})
    own = recipe.model_copy(update={"images": images})
    subset = ImageSet(source.folder, source.records[:3])
    stage.query_images([subset], recipe.folder / "store.sqlite", runs.query_settings(recipe, "one"))
    assert str(runs.plans(own)[0]).startswith("one: 8 images, 3 stored, 5 calls")


def test_who_names_no_hosts_is_not_taken_for_free_before_there_is_a_client(
    clean_set: ImageSet, tmp_path: Path, prices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, hosts=())
    query, store = QuerySettings("one", policy=QUICK, prices=prices, max_calls=9), tmp_path / "s.sqlite"
    untold = "5 calls to send (whom it asks, and what of it is stored, is known only once there is a client: about $0.0500 by"
    assert untold in str(stage.plan([clean_set], store, query))
    assert stage.query_images([clean_set], store, query).answered == 5
    assert "--max-calls 9, 5 used: it stops there" in str(stage.plan([clean_set], store, query))
    unknown = dataclasses.replace(query, provider="three", max_cost=1.0)
    assert "only once there is a client: price unknown" in str(stage.plan([clean_set], store, unknown))


@pytest.mark.parametrize(
    ("limits", "batch", "said"),
    [
        (ImageLimits(max_request=5_000), 4, " at least 2 calls to send"),
        (ImageLimits(max_request=5_000), 1, ", 5 calls to send"),
        (ImageLimits(), 4, ", 2 calls to send"),
    ],
)
def test_a_request_that_may_be_full_before_its_batch_makes_calls_a_minimum(
    clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: ImageLimits, batch: int, said: str
) -> None:
    install(monkeypatch, max_batch=4, limits=limits)
    query = QuerySettings("one", policy=QUICK, batch=batch)
    assert said in str(stage.plan([clean_set], tmp_path / "s.sqlite", query))
