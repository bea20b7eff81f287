"""Image sets: resumed wherever the making stopped, checked when read, another recipe refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from apibench.errors import ApibenchError
from apibench.imageset import ImageRecord, ImageSet, SetWriter, decode_png, encode_png, pixels_sha256, write_atomically
from tests.conftest import paint


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_is_written_is_read_back(clean_set: ImageSet) -> None:
    loaded = ImageSet.load(clean_set.folder)
    assert loaded.records == clean_set.records
    for i, record in enumerate(loaded.records):
        assert np.array_equal(loaded.read_pixels(record), paint(i))
        assert record.pixels_sha256 == record.source == pixels_sha256(paint(i))
        assert record.label == i


def test_the_identity_tells_size_and_pixels_apart() -> None:
    a = np.zeros((2, 6, 3), np.uint8)
    assert len({pixels_sha256(a), pixels_sha256(a.reshape(6, 2, 3)), pixels_sha256(a + 1)}) == 3


@pytest.mark.parametrize("harm", ["remove png", "remove json", "half a json", "half-written"])
def test_an_interrupted_set_is_completed_to_the_same_bytes(clean_set: ImageSet, harm: str) -> None:
    whole = snapshot(clean_set.folder)
    (clean_set.folder / "manifest.jsonl").unlink()
    if harm == "remove png":
        (clean_set.folder / "photo2.png").unlink()
    elif harm == "remove json":
        (clean_set.folder / "photo2.json").unlink()
    elif harm == "half a json":
        (clean_set.folder / "photo2.json").write_text('{"id": "pho')
    writer = SetWriter(clean_set.folder, {"stage": "import"})
    for i in range(5):
        if writer.done(f"photo{i}") is None:
            assert i == 2
            writer.write(f"photo{i}", paint(i), variant="clean", label=i, label_source="given")
    assert writer.finish(f"photo{i}" for i in range(5)) is not None
    assert snapshot(clean_set.folder) == whole


def test_an_unfinished_set_is_not_loaded(clean_set: ImageSet) -> None:
    (clean_set.folder / "manifest.jsonl").unlink()
    with pytest.raises(ApibenchError, match="not finished"):
        ImageSet.load(clean_set.folder)


def test_shards_meet(tmp_path: Path) -> None:
    first, second = SetWriter(tmp_path / "s", {"a": 1}), SetWriter(tmp_path / "s", {"a": 1})
    first.write("x", paint(0), variant="clean")
    assert first.finish(["x", "y"]) is None
    second.write("y", paint(1), variant="clean")
    finished = second.finish(["x", "y"])
    assert finished is not None
    assert [record.id for record in finished.records] == ["x", "y"]


def test_another_recipe_is_refused_and_says_what_differs(clean_set: ImageSet) -> None:
    with pytest.raises(ApibenchError, match="epsilon: null there, 8 now"):
        SetWriter(clean_set.folder, {"stage": "import", "epsilon": 8})


def test_a_folder_of_other_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"precious")
    with pytest.raises(ApibenchError, match="no image set"):
        SetWriter(tmp_path, {"stage": "import"})
    assert snapshot(tmp_path) == {"mine.png": b"precious"}


def test_a_changed_file_is_noticed(clean_set: ImageSet) -> None:
    record = clean_set.records[0]
    data = bytearray(clean_set.path(record).read_bytes())
    data[-20] ^= 1
    clean_set.path(record).write_bytes(bytes(data))
    with pytest.raises(ApibenchError, match=r"photo0\.png: changed since it was written"):
        clean_set.read_pixels(record)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"not a PNG", "not a PNG that can be read"),
        (b"", "not a PNG that can be read"),
        (encode_png(paint(0))[:-60], "not a PNG that can be read"),
        (encode_png(paint(0, 24, 40)), "is 40x24 pixels, not the manifest's"),
    ],
)
def test_a_file_that_fits_its_hash_and_is_no_such_picture_is_named(data: bytes, said: str, clean_set: ImageSet) -> None:
    record = dataclasses.replace(clean_set.records[0], sha256=hashlib.sha256(data).hexdigest())
    clean_set.path(record).write_bytes(data)
    with pytest.raises(ApibenchError, match=rf"photo0\.png: {said}"):
        clean_set.read_pixels(record)


HOSTILE = [
    *({"file": file} for file in ("../../etc/passwd", "/etc/passwd", "..", "a/b.png", "", "other.png")),
    *({"id": id, "file": f"{id}.png"} for id in ("../../evil", "/evil", "", "a b", "x" * 500, "a\n")),
    {"id": 7},
    {"label": 5000},
    {"label": "dog"},
    {"label": True},
    {"variant": None},
    {"source": "x"},
    {"sha256": None},
    {"settings": []},
]


@pytest.mark.parametrize("change", HOSTILE, ids=[str(change)[:40] for change in HOSTILE])
def test_a_manifest_is_checked_and_cannot_lead_out_of_its_folder(
    clean_set: ImageSet, change: dict[str, object]
) -> None:
    line = json.loads(clean_set.records[0].to_json()) | change
    (clean_set.folder / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ApibenchError, match="line 1: not an image record"):
        ImageSet.load(clean_set.folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{bad", '{"id": 1, "surprise": 2}'])
def test_a_broken_manifest_is_named(clean_set: ImageSet, text: str) -> None:
    (clean_set.folder / "manifest.jsonl").write_text(text + "\n" if text else "")
    with pytest.raises(ApibenchError, match=r"clean"):
        ImageSet.load(clean_set.folder)


def test_records_survive_a_round_trip(clean_set: ImageSet) -> None:
    for record in clean_set.records:
        assert ImageRecord.from_json(record.to_json()) == record


def test_temporary_files_never_look_like_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = Path.replace

    def spy(self: Path, target: Path) -> Path:
        seen.append(self.name)
        return real(self, target)

    monkeypatch.setattr(Path, "replace", spy)
    SetWriter(tmp_path, {}).write("x", paint(0), variant="clean")
    assert len(seen) == 3
    assert not any(name.endswith((".png", ".json")) for name in seen)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    write_atomically(tmp_path / "x", b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ApibenchError, match="No space left on device"):
        write_atomically(tmp_path / "x", b"new")
    assert snapshot(tmp_path) == {"x": b"old"}


def test_the_png_is_lossless_at_the_extremes() -> None:
    from apibench.imageset import encode_png

    ramp = np.arange(256 * 3, dtype=np.uint8).reshape(1, 256, 3)
    assert np.array_equal(decode_png(encode_png(ramp)), ramp)
