"""The reader of serialised messages, against the vendors' own generated classes."""

from __future__ import annotations

import contextlib
import math
import struct
from typing import Any

import pytest
from apibench_adapters.protobuf import Message, field
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

vision = pytest.importorskip("google.cloud.vision_v1")
clarifai = pytest.importorskip("clarifai_grpc.grpc.api.service_pb2")
json_format = pytest.importorskip("google.protobuf.json_format")
FieldDescriptor = pytest.importorskip("google.protobuf.descriptor").FieldDescriptor

Entity = type(vision.EntityAnnotation.pb(vision.EntityAnnotation()))
Google = type(vision.BatchAnnotateImagesResponse.pb(vision.BatchAnnotateImagesResponse()))
Clarifai = clarifai.MultiOutputResponse

SLOW = [HealthCheck.too_slow]  # of a busy machine, not of the strategies

names = st.text(max_size=20)
# By sign, exponent and fraction: a process that flushes denormals cannot compare numbers below the smallest normal one.
floats = st.one_of(
    st.just(0.0),
    st.builds(
        lambda sign, exponent, fraction: float(
            struct.unpack("<f", struct.pack("<I", sign << 31 | exponent << 23 | fraction))[0]
        ),
        st.integers(0, 1),
        st.integers(1, 254),
        st.integers(0, 2**23 - 1),
    ),
)
int32s = st.integers(-(2**31), 2**31 - 1)
responses_of_google = st.lists(
    st.fixed_dictionaries(
        {
            "label_annotations": st.lists(
                st.fixed_dictionaries({"mid": names, "description": names, "score": floats}), max_size=4
            )
        },
        optional={
            "error": st.fixed_dictionaries({"code": int32s, "message": names}),
            "context": st.fixed_dictionaries({"uri": names, "page_number": int32s}),
        },
    ),
    max_size=4,
).map(lambda entries: Google(responses=entries))
responses_of_clarifai = st.lists(
    st.fixed_dictionaries(
        {
            "id": names,
            "data": st.fixed_dictionaries(
                {"concepts": st.lists(st.fixed_dictionaries({"id": names, "name": names, "value": floats}), max_size=4)}
            ),
        },
        optional={
            "status": st.fixed_dictionaries({"code": st.integers(0, 90_000), "description": names, "details": names}),
            "model": st.fixed_dictionaries({"id": names, "model_version": st.fixed_dictionaries({"id": names})}),
            "input": st.fixed_dictionaries(
                {"data": st.fixed_dictionaries({"image": st.fixed_dictionaries({"base64": st.binary(max_size=200)})})}
            ),
        },
    ),
    max_size=4,
).map(lambda outputs: Clarifai(outputs=outputs))


def same(read: Message, message: Any) -> None:
    """Every field of the message, set or not, is read as protobuf reads it."""
    for about in message.DESCRIPTOR.fields:
        value, number = getattr(message, about.name), about.number
        if about.type == FieldDescriptor.TYPE_MESSAGE:
            if about.message_type.GetOptions().map_entry:
                continue
            if about.is_repeated:
                children = read.messages(number)
                assert len(children) == len(value)
                assert read.serialised(number) == [each.SerializeToString() for each in value]
                for child, each in zip(children, value, strict=True):
                    same(child, each)
            elif message.HasField(about.name):
                assert read.has(number)
                same(read.message(number), value)
            else:
                assert not read.has(number)
        elif about.is_repeated:
            continue
        elif about.type == FieldDescriptor.TYPE_STRING:
            assert read.text(number) == value
        elif about.type == FieldDescriptor.TYPE_BYTES:
            assert read.data(number) == value
        elif about.type == FieldDescriptor.TYPE_FLOAT:
            assert struct.pack("<f", read.float32(number)) == struct.pack("<f", value)
        elif about.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_ENUM):
            assert read.integer(number) == value


messages = st.one_of(responses_of_google, responses_of_clarifai)


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(messages)
def test_the_same_fields_are_read(message: Any) -> None:
    same(Message(message.SerializeToString()), message)


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(messages)
def test_a_message_of_parts_is_the_message(message: Any) -> None:
    """Several fields of one number, each written alone and put together, as a batch is taken apart."""
    number = 1 if isinstance(message, Google) else 2
    data = message.SerializeToString()
    parts = Message(data).serialised(number)
    assert b"".join(field(number, part) for part in parts) == data
    for part in parts:
        same(Message(field(number, part)), type(message).FromString(field(number, part)))


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 16_383, 16_384, 3_000_000])
def test_lengths_are_written_as_protobuf_writes_them(size: int) -> None:
    image = type(vision.Image.pb(vision.Image()))(content=bytes(size) or b"")
    written = field(1, bytes(size))
    assert written == image.SerializeToString() if size else written == b"\x0a\x00"
    assert Message(written).data(1) == bytes(size)
    with pytest.raises(ValueError, match="field 16"):
        field(16, b"")


def walk(read: Message, depth: int = 0) -> None:
    """Ask for everything, as everything."""
    for number in range(1, 25):
        for ask in (read.integer, read.float32, read.text, read.data, read.serialised):
            with contextlib.suppress(ValueError):
                ask(number)
        if depth < 3:
            try:
                children = read.messages(number)
            except ValueError:
                continue
            for child in children:
                walk(child, depth + 1)


@settings(max_examples=80, deadline=None, suppress_health_check=SLOW)
@given(messages, st.integers(0, 10_000), st.binary(max_size=6), st.integers(0, 6), st.booleans())
def test_cut_or_mutated_bytes_raise_valueerror_and_nothing_else(
    message: Any, at: int, junk: bytes, drop: int, cut: bool
) -> None:
    data = message.SerializeToString()
    at %= len(data) + 1
    spoilt = data[:at] if cut else data[:at] + junk + data[at + drop :]
    try:
        read = Message(spoilt)
    except ValueError:
        return
    walk(read)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_a_valueerror(data: bytes) -> None:
    try:
        read = Message(data)
    except ValueError:
        return
    walk(read)


def test_every_cut_within_a_field_is_seen() -> None:
    whole = Entity(mid="/m/0bt9lr", description="Dog", score=0.5).SerializeToString()
    ends = {0, 11, 16, 21}
    assert len(whole) == max(ends)
    for at in range(len(whole)):
        if at in ends:
            Message(whole[:at])
        else:
            with pytest.raises(ValueError, match="cut short"):
                Message(whole[:at])


@settings(max_examples=200, deadline=None)
@given(floats)
def test_a_float32_is_what_protobufs_json_prints(value: float) -> None:
    entity = Entity(score=value)
    printed = json_format.MessageToDict(entity).get("score", 0.0)
    assert Message(entity.SerializeToString()).float32(4) == printed
    if -1e-5 < value < 1.00001:
        assert float(json_format.MessageToJson(entity).partition("score")[2].strip('": }\n') or 0.0) == printed


def test_floats_at_the_limits() -> None:
    largest, smallest = struct.unpack("<ff", bytes.fromhex("ffff7f7f00008000"))
    for value in (0.0, 1.0, 0.1, 0.98088604, 1 / 3, largest, -largest, smallest):
        entity = Entity(score=value)
        assert Message(entity.SerializeToString()).float32(4) == json_format.MessageToDict(entity).get("score", 0.0)
    for value in (math.inf, -math.inf):
        assert Message(Entity(score=value).SerializeToString()).float32(4) == value
    assert math.isnan(Message(Entity(score=math.nan).SerializeToString()).float32(4))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00\x00", "without a number"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x0c", "wire type 4"),
        (b"\x0e", "wire type 6"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "more than ten bytes"),
        (b"\x08\x80", "cut short"),
        (b"\x0a\x05abc", "cut short"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "cut short"),
        (b"\x09abc", "cut short"),
        (b"\x0dabc", "cut short"),
    ],
)
def test_what_is_no_message_is_said_why(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Message(data)


def test_a_field_that_is_not_there_has_its_default_and_of_several_the_last_counts() -> None:
    empty = Message(b"")
    assert (empty.text(1), empty.data(1), empty.integer(1), empty.float32(1), empty.messages(1)) == (
        "",
        b"",
        0,
        0.0,
        [],
    )
    assert not empty.message(1).has(1)
    twice = Message(field(1, b"a") + field(1, b"b") + b"\x10\x01\x10\x02")
    assert (twice.text(1), twice.integer(2), twice.serialised(1)) == ("b", 2, [b"a", b"b"])


def test_a_field_of_another_type_is_not_read_as_what_it_is_not() -> None:
    read = Message(field(1, b"a") + b"\x10\x01")
    for wrong in (lambda: read.integer(1), lambda: read.float32(1), lambda: read.text(2), lambda: read.messages(2)):
        with pytest.raises(ValueError, match="another type"):
            wrong()
    with pytest.raises(UnicodeDecodeError):
        Message(field(1, b"\xff")).text(1)
