"""Before anything is paid for: what an image is held against, what is done to make it fit, and what is said where it cannot."""

from __future__ import annotations

import hashlib
import importlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from apibench.imageset import decode_png, encode_png
from apibench.query import registry, status
from apibench.query.contract import ErrorKind, ImageLimits, ProviderError, WireKind
from apibench.query.engine import Engine
from apibench.query.preflight import Unsendable, preflight, prepare, refused_again
from apibench.query.result import Question
from apibench.query.store import ResponseStore
from tests.conftest import paint
from tests.emulation import bomb, encode, picture
from tests.fakes import KEY, QUICK, FakeProvider

VENDORS = ("aws", "azure", "clarifai", "google")


def limits_of(name: str, wire: WireKind = WireKind.HTTP) -> ImageLimits:
    return registry.adapter(name).info.limits.over(wire)


def reason(data: bytes, limits: ImageLimits) -> str:
    found = preflight(data, limits)
    assert isinstance(found, Unsendable), "it is sendable"
    return found.reason


def test_what_fits_is_sent_byte_for_byte() -> None:
    data = encode_png(paint(0, 96, 96))
    for name in VENDORS:
        assert preflight(data, limits_of(name)) is data


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("aws", (79, 400), "79 x 400 pixels: it takes no side below 80"),
        ("aws", (10_001, 80), "10001 x 80 pixels: it takes no side above 10,000"),
        ("azure", (50, 60), "50 x 60 pixels: it takes no side below 51"),
        ("azure", (60, 16_000), "60 x 16000 pixels: it takes no side above 15,999"),
    ],
)
def test_a_side_that_the_vendor_does_not_take_is_named_with_its_limit(
    name: str, size: tuple[int, int], said: str
) -> None:
    assert reason(picture(size=size), limits_of(name)) == said


@pytest.mark.parametrize(("name", "side"), [("clarifai", 9_300), ("google", 8_700)])
def test_pixels_are_counted_without_decoding_any(name: str, side: int) -> None:
    assert "it takes at most" in reason(bomb(side), limits_of(name))


@pytest.mark.parametrize("data", [b"", b"\x89PNG no image", b"<html>", bomb(60_000)])
def test_what_cannot_be_opened_is_unsendable(data: bytes) -> None:
    for name in VENDORS:
        reason(data, limits_of(name))


def test_another_format_is_unsendable_and_nothing_is_converted() -> None:
    said = reason(encode(paint(0, 96, 96), "JPEG"), limits_of("aws"))
    assert "JPEG" in said


@pytest.mark.parametrize(
    ("name", "module", "sides"),
    [
        ("aws", "rekognition", True),
        ("azure", "computervision", True),
        ("clarifai", "clarifai", False),
        ("google", "cloudvision", False),
    ],
)
def test_the_emulator_has_the_same_limits(name: str, module: str, sides: bool) -> None:
    emulated, limits = importlib.import_module(f"apibench.emulator.{module}"), registry.adapter(name).info.limits
    if sides:
        assert (limits.min_side, limits.max_side) == (emulated.LIMITS.min_side, emulated.LIMITS.max_side)
    else:
        assert limits.max_pixels == emulated.LIMITS.max_pixels
    too_many = {"azure": 4 * 1024**2 - 1, "clarifai": 20 * 1024**2 - 1}
    assert limits.max_bytes == too_many.get(name, getattr(emulated, "MAX_BYTES", 20 * 1024**2))


def test_base64_counts_where_images_travel_in_json() -> None:
    """A file that fills Google's JSON request: its base64 has a third more bytes. Over gRPC it travels as it is."""
    google = registry.adapter("google").info.limits
    rest, rpc = google.over(WireKind.HTTP), google.over(WireKind.GRPC)
    assert rest.max_bytes is not None
    assert rest.max_bytes * 4 / 3 < 10 * 1024**2 < (rest.max_bytes + 1000) * 4 / 3
    assert rpc.max_bytes == 20 * 1024**2
    assert (rest.max_json, rpc.max_json) == (None, None)


@pytest.mark.parametrize(
    ("name", "wire", "limit", "per_image"),
    [
        ("google", WireKind.HTTP, 10 * 1024**2, 4 / 3),
        ("google", WireKind.GRPC, 41_943_040, 1),
        ("clarifai", WireKind.GRPC, 128_000_000, 1),
    ],
)
def test_a_batch_has_a_limit_of_its_own(name: str, wire: WireKind, limit: int, per_image: float) -> None:
    limits, size = limits_of(name, wire), 1_000_000
    most = int(limit / (size * per_image))
    assert limits.together([size] * (most - 1))
    assert not limits.together([size] * (most + 1))
    assert registry.adapter("aws").info.limits.together([size] * 1000), "of one image a request there is nothing to say"


def noisy(seed: int = 0, side: int = 200) -> bytes:
    """A PNG that can be made smaller: level 0 keeps pixels as they are."""
    buffer = io.BytesIO()
    Image.fromarray(paint(seed, side, side)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def test_a_file_that_is_too_large_is_compressed_again_without_loss() -> None:
    data = noisy()
    found = preflight(data, ImageLimits(max_bytes=len(data) - 1))
    assert isinstance(found, bytes)
    assert len(found) < len(data)
    assert (decode_png(found) == decode_png(data)).all()


def test_one_that_stays_too_large_is_unsendable_and_its_best_size_is_said() -> None:
    data = encode_png(np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8))
    assert "even compressed again: it takes at most 20,000" in reason(data, ImageLimits(max_bytes=20_000))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 40, 255, 256, 257, 1000]),
    st.booleans(),
)
def test_compressing_again_never_changes_a_pixel(seed: int, colours: int, grey: bool) -> None:
    draw = np.random.default_rng(seed)
    palette = draw.integers(0, 256, (colours, 3), dtype=np.uint8)
    palette = palette[:, :1].repeat(3, axis=1) if grey else palette
    pixels = palette[draw.integers(0, colours, (40, 60))]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    found = preflight(buffer.getvalue(), ImageLimits(max_bytes=len(buffer.getvalue()) - 1))
    if isinstance(found, bytes):
        assert (decode_png(found) == pixels).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "I;16"])
def test_other_kinds_of_png_keep_their_pixels_too(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16)
    else:
        image = Image.fromarray(paint(0, 64, 64)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=0)
    found = preflight(buffer.getvalue(), ImageLimits(max_bytes=len(buffer.getvalue()) - 1))
    assert isinstance(found, bytes)
    again = Image.open(io.BytesIO(found))
    assert again.convert(image.mode).tobytes() == image.tobytes()


def test_the_engine_refuses_before_it_sends_and_keeps_identity(tmp_path: Path) -> None:
    """No request for what cannot be sent; what is compressed again is stored as its file, with the hash of what was sent."""
    large, small = noisy(), picture(size=(20, 20))
    limits = ImageLimits(max_bytes=len(large) - 1, min_side=21)
    provider = FakeProvider()
    questions = [Question(hashlib.sha256(data).hexdigest(), "x", lambda data=data: data) for data in (large, small)]  # type: ignore[misc]
    with ResponseStore.open(tmp_path / "s.sqlite") as store:
        report = Engine(
            provider, store, KEY, policy=QUICK, concurrency=1, max_calls=1, prepare=prepare("Fake", limits)
        ).run(questions)
        assert (report.answered, report.sent, provider.hits, store.calls("default")) == (1, 1, 1, 1)
        assert report.rejected == [("x", "Fake: 20 x 20 pixels: it takes no side below 21")]
        assert provider.seen == [questions[0].sha256]
        assert store.settled(KEY) == {questions[0].sha256: "answered"}
        rows = store._connection.execute("SELECT sha256, sent_sha256, error_code FROM attempts").fetchall()
    sent = {sha256: (other, code) for sha256, other, code in rows}
    assert sent[questions[1].sha256] == (None, "preflight")
    other, code = sent[questions[0].sha256]
    assert code is None
    assert other not in (None, questions[0].sha256)


def test_a_refusal_says_whose_limit_it_is_and_that_nothing_was_sent() -> None:
    with pytest.raises(ProviderError) as caught:
        prepare("AWS Rekognition", limits_of("aws"))(picture(size=(20, 20)))
    error = caught.value
    assert (error.kind, error.code, error.sent, error.uncertain) == (ErrorKind.REJECTED, "preflight", False, False)
    assert error.message.startswith("AWS Rekognition: 20 x 20 pixels")


def test_a_refusal_of_ones_own_is_looked_at_again(tmp_path: Path) -> None:
    """Of the same key another transport may take more: what was refused for one of them is sent over the other."""
    data = [picture(size=(20, 20)), picture(size=(30, 30))]
    asked = [Question(hashlib.sha256(one).hexdigest(), "x", lambda one=one: one) for one in data]  # type: ignore[misc]
    unique = {question.sha256: question for question in asked}
    small, smaller = ImageLimits(min_side=40), ImageLimits(min_side=25)
    with ResponseStore.open(tmp_path / "s.sqlite") as store:
        Engine(FakeProvider(), store, KEY, policy=QUICK, prepare=prepare("Fake", small)).run(asked)
        assert set(refused_again(store, KEY, unique, "Fake", small)) == set(unique)
        again = refused_again(store, KEY, unique, "Fake", smaller)
        assert again == {asked[0].sha256: "Fake: 20 x 20 pixels: it takes no side below 25"}
        report = Engine(FakeProvider(), store, KEY, policy=QUICK, prepare=prepare("Fake", smaller)).run(asked)
        assert (report.answered, len(report.rejected), report.rejected_before) == (1, 1, [])
        assert status.standings(store)[0].images == {"answered": 1, "refused": 1, "failed": 0, "uncertain": 0}
