"""``purify`` on whole sets: what is recorded tells two purifiers apart, and what is drawn belongs to an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from apibench import purifiers
from apibench.errors import ApibenchError
from apibench.imageset import ImageSet
from apibench.purifiers.stage import purify
from apibench.recipe import Recipe
from apibench.run import variants


def test_a_random_one_draws_by_seed_and_image_wherever_it_is_taken_up(clean_set: ImageSet, tmp_path: Path) -> None:
    def made(name: str, images: ImageSet = clean_set, seed: int = 0) -> dict[str, str]:
        result = purify(images, tmp_path / name, purifiers.create("resize-pad:0.5"), seed=seed)
        return {record.id: record.pixels_sha256 for record in result.images.records}

    whole = made("whole")
    reverse = ImageSet(clean_set.folder, clean_set.records[::-1])
    assert made("reverse", reverse) == whole, "not by the place in the set"
    assert made("other", seed=1) != whole
    (tmp_path / "whole" / "photo2.json").unlink()
    (tmp_path / "whole" / "manifest.jsonl").unlink()
    assert made("whole") == whole, "nor by what was there"
    with pytest.raises(ApibenchError, match="seed: 0 there, 1 now"):
        made("whole", seed=1)


def test_what_is_recorded(clean_set: ImageSet, tmp_path: Path) -> None:
    images = ImageSet(clean_set.folder, clean_set.records[:1])
    for name, variant in {"jpeg:50+median/2": "clean+jpeg:50/1+median:3/2", "tv": "clean+tv:0.1/1"}.items():
        record = purify(images, tmp_path / name, purifiers.create(name)).images.records[0]
        assert record.variant == variant
        assert "seed" not in record.settings["purify"][0]
        assert {"kornia" if "median" in name else "scikit-image", "torch"} <= record.versions.keys()
    with pytest.raises(ApibenchError, match="holds an image set made by another recipe"):
        purify(images, tmp_path / "tv", purifiers.create("tv:0.2"))
    chained = purify(images, tmp_path / "both", purifiers.create("jpeg:50+ncis:2")).images.records[0]
    jpeg, ncis = chained.settings["purify"][0]["parts"]
    assert (jpeg["purifier"], ncis["iterations"]) == ("jpeg:50", 2)
    assert len(ncis["weights_sha256"]) == 16
    assert purify(images, tmp_path / "both", purifiers.create("jpeg:50/1+ncis/2")).kept == 1, (
        "the same, written otherwise"
    )


def test_what_was_purified_before_stays_recorded(clean_set: ImageSet, tmp_path: Path) -> None:
    images = ImageSet(clean_set.folder, clean_set.records[:1])
    once = purify(images, tmp_path / "once", purifiers.create("jpeg:50")).images
    twice = purify(once, tmp_path / "twice", purifiers.create("median")).images.records[0]
    assert [part["purifier"] for part in twice.settings["purify"]] == ["jpeg:50", "median:3"]
    assert twice.variant == "clean+jpeg:50/1+median:3/1"


def test_a_run_names_folders_that_any_system_takes() -> None:
    chosen = [
        {"purifier": "jpeg:50+ncis:4"},
        {"purifier": "gaussian:5,1.5", "iterations": [1, 4]},
        {"purifier": "ncis:2"},
    ]
    recipe = Recipe.model_validate({"name": "test", "generate": {"epsilon": [8]}, "purify": chosen})
    folders = [variant.folder for variant in variants(recipe)]
    assert folders[2::2] == [
        "clean+jpeg-50-1+ncis-4",
        "clean+gaussian-5-1.5-1",
        "clean+gaussian-5-1.5-4",
        "clean+ncis-2",
    ]
    again = recipe.model_copy(update={"purify": [*recipe.purify, recipe.purify[0].model_copy()]})
    with pytest.raises(ApibenchError, match="stands in it twice"):
        variants(again)
