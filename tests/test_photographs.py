"""Import: whatever people have in a folder becomes upright 8-bit sRGB, or a line that names the culprit."""

from __future__ import annotations

import csv
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

import apibench
from apibench import photographs
from apibench.cli import cli
from apibench.errors import ApibenchError
from apibench.imageset import ImageSet
from apibench.terminal import run_command
from tests.conftest import paint


def jpeg(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, format="JPEG", quality=95, **options)
    return path


def test_a_sixteen_bit_grey_png_is_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "grey16.png")
    pixels = photographs.decode(tmp_path / "grey16.png")
    assert pixels.shape == (64, 64, 3)
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[-1, -1].tolist() == [255, 255, 255]
    assert abs(int(pixels[32, 0, 0]) - 128) <= 1


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    palette = Image.new("P", (40, 40), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255] + [0] * 750)
    palette.putpixel((3, 4), 0)
    palette.save(tmp_path / "palette.png", transparency=0)
    pixels = photographs.decode(tmp_path / "palette.png")
    assert pixels[4, 3].tolist() == [255, 255, 255]
    assert pixels[0, 0].tolist() == [0, 0, 255]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    path = jpeg(tmp_path / "cmyk.jpg", Image.new("CMYK", (40, 40), (0, 255, 255, 0)))
    assert photographs.decode(path)[20, 20, 0] > 200
    assert photographs.decode(path)[20, 20, 1] < 60


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to see it upright
    picture = Image.new("RGB", (60, 40), "blue")
    picture.paste("red", (0, 0, 60, 20))
    pixels = photographs.decode(jpeg(tmp_path / "turned.jpg", picture, exif=exif))
    assert pixels.shape == (60, 40, 3)
    assert pixels[30, 35, 0] > 200, "the red half, on top in the file, is at the right when upright"
    assert pixels[30, 5, 2] > 200


def test_an_embedded_profile_is_converted(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    Image.fromarray(paint(1)).save(tmp_path / "misfit.png", icc_profile=profile.tobytes())
    assert np.array_equal(photographs.decode(tmp_path / "misfit.png"), paint(1)), (
        "a profile that does not fit is ignored"
    )
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(paint(1)).save(tmp_path / "srgb.png", icc_profile=srgb)
    assert np.abs(photographs.decode(tmp_path / "srgb.png").astype(int) - paint(1)).max() <= 1


def test_the_longest_side_is_bounded(tmp_path: Path) -> None:
    Image.fromarray(paint(0, 100, 300)).save(tmp_path / "wide.png")
    assert photographs.decode(tmp_path / "wide.png", 150).shape == (50, 150, 3)
    assert photographs.decode(tmp_path / "wide.png", 512).shape == (100, 300, 3)


def bomb(side: int = 30_000) -> bytes:
    """The header of an enormous PNG; decoding it would take gigabytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def truncated() -> bytes:
    buffer = BytesIO()
    Image.fromarray(paint(0, 200, 200)).save(buffer, format="JPEG")
    return buffer.getvalue()[:1500]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.jpg", b"this is text", "not an image"),
        ("empty.png", b"", "not an image"),
        ("truncated.jpg", truncated(), "cannot be decoded"),
        ("script.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        ("bomb.png", bomb(), "more than 100 million pixels"),
    ],
)
def test_what_cannot_be_decoded_is_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ApibenchError) as caught:
        photographs.decode(tmp_path / name)
    assert reason in str(caught.value)
    assert name in str(caught.value)
    assert str(caught.value).count("\n") == 0


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 2000))
def test_no_bytes_bring_a_traceback(tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int) -> None:
    data = bytearray(truncated())
    data[at % len(data) : at % len(data) + len(junk)] = junk
    path = tmp_path_factory.mktemp("junk") / "junk.jpg"
    path.write_bytes(bytes(data))
    try:
        assert photographs.decode(path).ndim == 3
    except ApibenchError as error:
        assert "junk.jpg" in str(error)  # noqa: PT017


def test_import_goes_on_past_bad_files_and_lists_them(photographs_folder: Path, tmp_path: Path) -> None:
    (photographs_folder / "broken.jpg").write_bytes(truncated())
    (photographs_folder / "notes.txt").write_text("not an image, and not meant to be one")
    result = photographs.import_folder(photographs_folder, tmp_path / "clean")
    assert [record.id for record in result.images.records] == [f"photo{i}" for i in range(5)]
    assert [name for name, _ in result.failed] == ["broken.jpg"]
    assert result.ignored == 1
    assert [record.label for record in result.images.records] == list(range(5))
    assert ImageSet.load(tmp_path / "clean").records == result.images.records


def test_import_twice_touches_nothing(photographs_folder: Path, tmp_path: Path) -> None:
    photographs.import_folder(photographs_folder, tmp_path / "clean")
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "clean").iterdir()}
    photographs.import_folder(photographs_folder, tmp_path / "clean")
    assert before == {
        path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "clean").iterdir()
    }


@pytest.fixture
def photographs_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(5):
        Image.fromarray(paint(i)).save(folder / f"photo{i}.png")
    (folder / "labels.csv").write_text("file,label\n" + "".join(f"photo{i}.png,{i}\n" for i in range(5)))
    return folder


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("name,class\na,1\n", "needs a header line"),
        ("", "needs a header line"),
        ("file,label\nphoto0.png,tench\n", "line 2: label 'tench' is not a class index"),
        ("file,label\nphoto0.png,1000\n", "line 2: label '1000' is not a class index"),
        ("file,label\nphoto0.png,-1\n", "line 2"),
        ("file,label\nphoto0.png,1\nphoto0.png,2\n", "line 3: a second, different label"),
        ("file,label\nother.png,1\n", "names no image"),
    ],
)
def test_a_wrong_label_file_is_named(photographs_folder: Path, content: str, reason: str) -> None:
    (photographs_folder / "labels.csv").write_text(content)
    with pytest.raises(ApibenchError) as caught:
        photographs.find(photographs_folder)
    assert reason in str(caught.value)
    assert "labels.csv" in str(caught.value)


def test_hostile_names_become_plain_ids(tmp_path: Path) -> None:
    names = [
        "a b.png",
        "a-b.png",
        "A-B.png",
        "<script>.png",
        "x..png.png",
        "\u00fc\u4f60.png",
        "x" * 200 + ".png",
        "a.b.png",
    ]
    for i, name in enumerate(names):
        Image.fromarray(paint(i)).save(tmp_path / name)
    found, _ = photographs.find(tmp_path)
    ids = [item.id for item in found]
    assert len({id.lower() for id in ids}) == len(names)
    assert all(
        id.isascii() and set(id) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
        for id in ids
    )
    assert all(len(id) < 120 for id in ids)


@pytest.mark.parametrize(
    "make", [lambda p: None, lambda p: p.mkdir(), lambda p: (p.mkdir(), (p / "a.txt").write_text("x"))]
)
def test_an_empty_or_missing_folder_is_named(tmp_path: Path, make: object) -> None:
    folder = tmp_path / "nothing"
    make(folder)  # type: ignore[operator]
    with pytest.raises(ApibenchError, match="nothing"):
        photographs.find(folder)


def test_not_one_decodable_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"no")
    with pytest.raises(ApibenchError, match="not one of its 1 images"):
        photographs.import_folder(tmp_path / "in", tmp_path / "out")


def test_photographs_of_the_foolbox_package() -> None:
    found = photographs.packaged("pypi:foolbox")
    assert len(found) == 20
    assert all(item.label is not None and str(item.label) == item.path.stem.split("_")[2] for item in found)


def test_label_files_are_csv_whatever_the_names(tmp_path: Path) -> None:
    name = 'a,"b".png'
    Image.fromarray(paint(0)).save(tmp_path / name)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "label"], [name, 7]])
    assert [item.label for item in photographs.find(tmp_path)[0]] == [7]


def test_a_photograph_replaced_after_the_import_is_noticed(photographs_folder: Path, tmp_path: Path) -> None:
    photographs.import_folder(photographs_folder, tmp_path / "clean")
    Image.fromarray(paint(9)).save(photographs_folder / "photo2.png")
    with pytest.raises(ApibenchError, match=r"photo2\.png: is another picture than when it was imported"):
        photographs.import_folder(photographs_folder, tmp_path / "clean")


def test_labels_and_photographs_that_do_not_match_are_counted(
    photographs_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["photo0.png", "photo1.png", "PHOTO2.png", "x" * 300 + ".png", "photo4.png"]
    (photographs_folder / "labels.csv").write_text("file,label\n" + "".join(f"{name},7\n" for name in names))
    first, second = photographs.import_folder(photographs_folder, tmp_path / "clean").notes
    assert first.endswith(f"labels.csv: 2 rows without a photograph in {photographs_folder} (the first: 'PHOTO2.png')")
    assert "labels.csv: 2 photographs without a row (the first: 'photo2.png')" in second
    assert len(photographs.import_folder(photographs_folder, tmp_path / "two", limit=2).notes) == 1

    command = ["purify", "--images", str(photographs_folder), "--out", str(tmp_path / "pure"), "--purifier", "gaussian"]
    assert run_command(cli, command) == 0
    assert capsys.readouterr().err.splitlines()[:2] == [first, second]
    with pytest.warns(UserWarning, match="without a") as told:
        apibench.open_images(photographs_folder, tmp_path / "again")
    assert [str(one.message) for one in told] == [first, second]


def test_labels_that_match_or_are_not_there_are_no_news(photographs_folder: Path, tmp_path: Path) -> None:
    assert photographs.import_folder(photographs_folder, tmp_path / "clean").notes == ()
    (photographs_folder / "labels.csv").unlink()
    assert photographs.import_folder(photographs_folder, tmp_path / "bare").notes == ()


def test_a_run_and_an_attack_tell_of_labels_that_do_not_match(
    photographs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from apibench import recipe, run
    from apibench.attacks import stage

    def enough(*_: object, **__: object) -> None:
        raise ApibenchError("enough")

    monkeypatch.setattr(stage, "generate", enough)
    (photographs_folder / "labels.csv").write_text("file,label\nphoto0.png,1\n")
    command = ["generate", "--images", str(photographs_folder), "--out", str(tmp_path / "adv")]
    assert run_command(cli, command) == 2
    assert "4 photographs without a row" in capsys.readouterr().err

    said: list[str] = []
    text = f'name = "x"\nout = "{tmp_path}/out"\n[images]\nsource = "{photographs_folder}"\n'
    (tmp_path / "mine.toml").write_text(text)
    loaded = recipe.load(tmp_path / "mine.toml")
    with pytest.raises(ApibenchError, match="enough"):
        run.make_sets(loaded, said.append, run.RunResult(store=tmp_path / "store.sqlite"))
    assert "4 photographs without a row" in said[0]


def test_a_missing_label_file_is_one_line(photographs_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ApibenchError) as caught:
        photographs.find(photographs_folder, tmp_path / "nolabels.csv")
    assert str(caught.value) == f"{tmp_path / 'nolabels.csv'}: no such file; it has the columns 'file' and 'label'"
    with pytest.raises(ApibenchError, match="cannot be read: Is a directory"):
        photographs.find(photographs_folder, tmp_path)
