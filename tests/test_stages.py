"""generate and purify on whole sets: resumable, sharded, the same bytes however they were made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apibench import purifiers
from apibench.attacks import stage as attacks
from apibench.attacks.loop import AttackSettings
from apibench.errors import ApibenchError
from apibench.imageset import ImageSet
from apibench.purifiers import stage as purify
from tests.conftest import tiny_classifier

SETTINGS = AttackSettings("mi-di", epsilon=8, steps=3)


@pytest.fixture(autouse=True)
def tiny_surrogates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacks, "canonical", lambda name: name)
    monkeypatch.setattr(attacks, "check_all", lambda names: None)
    monkeypatch.setattr(attacks, "load_all", lambda names, device: [tiny_classifier(int(n[-1])) for n in names])


def generate(images: ImageSet, out: Path, **options: object) -> attacks.Generated:
    return attacks.generate(images, out, SETTINGS, ["tiny:0", "tiny:1"], **options)  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_bound_holds_on_the_decoded_files(clean_set: ImageSet, tmp_path: Path) -> None:
    made = generate(clean_set, tmp_path / "adv")
    assert made.made == 5
    assert made.images is not None
    for clean, adversarial in zip(clean_set.records, made.images.records, strict=True):
        noise = made.images.read_pixels(adversarial).astype(int) - clean_set.read_pixels(clean)
        assert 0 < np.abs(noise).max() <= 8
        assert adversarial.extra["linf"] == np.abs(noise).max()
        assert adversarial.source == clean.pixels_sha256
        assert adversarial.variant == "mi-di/eps8"
        assert (adversarial.label, adversarial.label_source) == (clean.label, "given")
        assert adversarial.settings["surrogates"] == ["tiny:0", "tiny:1"]


def test_interrupted_or_sharded_it_ends_with_the_same_bytes(clean_set: ImageSet, tmp_path: Path) -> None:
    generate(clean_set, tmp_path / "whole")
    whole = files(tmp_path / "whole")

    generate(clean_set, tmp_path / "resumed")
    for name in ("manifest.jsonl", "photo1.json", "photo3.png", "photo3.json"):
        (tmp_path / "resumed" / name).unlink()
    untouched = {n: (tmp_path / "resumed" / n).stat().st_mtime_ns for n in ("photo0.png", "photo2.json")}
    again = generate(clean_set, tmp_path / "resumed")
    assert (again.made, again.kept) == (2, 3)
    assert files(tmp_path / "resumed") == whole
    assert untouched == {n: (tmp_path / "resumed" / n).stat().st_mtime_ns for n in untouched}

    for part in ("2/3", "3/3"):
        assert generate(clean_set, tmp_path / "sharded", shard=attacks.Shard.parse(part)).images is None
    assert generate(clean_set, tmp_path / "sharded", shard=attacks.Shard.parse("1/3")).images is not None
    assert files(tmp_path / "sharded") == whole


def test_a_finished_set_loads_no_surrogate(
    clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(clean_set, tmp_path / "adv")
    monkeypatch.setattr(attacks, "load_all", lambda *_: pytest.fail("loaded"))
    assert generate(clean_set, tmp_path / "adv").kept == 5


def test_without_labels_the_ensemble_says_what_it_sees(clean_set: ImageSet, tmp_path: Path) -> None:
    import dataclasses

    unlabelled = ImageSet(clean_set.folder, [dataclasses.replace(r, label=None) for r in clean_set.records])
    made = generate(unlabelled, tmp_path / "adv")
    assert made.images is not None
    assert {record.label_source for record in made.images.records} == {"predicted"}
    assert all(record.label is not None for record in made.images.records)


def test_only_clean_images_are_attacked(clean_set: ImageSet, tmp_path: Path) -> None:
    made = generate(clean_set, tmp_path / "adv").images
    assert made is not None
    with pytest.raises(ApibenchError, match="only clean images are attacked"):
        generate(made, tmp_path / "twice")


def test_limit_takes_the_first(clean_set: ImageSet, tmp_path: Path) -> None:
    made = generate(clean_set, tmp_path / "adv", limit=2).images
    assert made is not None
    assert [record.id for record in made.records] == ["photo0", "photo1"]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", ""])
def test_bad_shards_are_refused(text: str) -> None:
    with pytest.raises(ApibenchError, match="write I/N"):
        attacks.Shard.parse(text)


def test_purified_sets_keep_size_label_and_source(clean_set: ImageSet, tmp_path: Path) -> None:
    adversarial = generate(clean_set, tmp_path / "adv").images
    assert adversarial is not None
    result = purify.purify(adversarial, tmp_path / "pure", purifiers.create("gaussian", 2))
    for before, after in zip(adversarial.records, result.images.records, strict=True):
        assert after.variant == "mi-di/eps8+gaussian/2"
        assert (after.width, after.height, after.label, after.source) == (
            before.width,
            before.height,
            before.label,
            before.source,
        )
        assert after.pixels_sha256 != before.pixels_sha256
    assert purify.purify(adversarial, tmp_path / "pure", purifiers.create("gaussian", 2)).kept == 5
    with pytest.raises(ApibenchError, match="iterations: 2 there, 3 now"):
        purify.purify(adversarial, tmp_path / "pure", purifiers.create("gaussian", 3))


def test_an_image_that_cannot_be_read_is_listed_and_the_rest_is_complete(clean_set: ImageSet, tmp_path: Path) -> None:
    clean_set.path(clean_set.records[1]).write_bytes(b"changed")
    clean_set.path(clean_set.records[3]).unlink()
    made = generate(clean_set, tmp_path / "adv")
    assert [name for name, _ in made.failed] == ["photo1", "photo3"]
    assert made.images is not None
    assert [record.id for record in made.images.records] == ["photo0", "photo2", "photo4"]
    pure = purify.purify(clean_set, tmp_path / "pure", purifiers.create("gaussian", 1))
    assert (len(pure.failed), pure.made, len(pure.images.records)) == (2, 3, 3)
    for record in clean_set.records:
        clean_set.path(record).unlink(missing_ok=True)
    with pytest.raises(ApibenchError, match="not one of its images can be made"):
        generate(clean_set, tmp_path / "none")


def test_a_surrogate_that_fails_leaves_no_half_made_set(
    clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ApibenchError("no such weights")

    with monkeypatch.context() as patch:
        patch.setattr(attacks, "load_all", broken)
        with pytest.raises(ApibenchError, match="no such weights"):
            attacks.generate(clean_set, tmp_path / "adv", SETTINGS, ["tiny:9"])
    assert generate(clean_set, tmp_path / "adv").made == 5, "the same folder, with the mistake put right"
