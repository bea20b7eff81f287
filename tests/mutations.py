"""Mutations of replies, as hypothesis' strategies: of any bytes, of JSON, and of serialised messages."""

from __future__ import annotations

import copy
import json
import math
import struct
from collections.abc import Iterator
from typing import Any

from apibench_adapters import protobuf
from hypothesis import strategies as st

from apibench.query.redact import MOST_KEPT

# --- of bytes ---


@st.composite
def of_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Some bytes flipped, cut out, repeated, or others put in; or all of them in another coding."""
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, min(len(data), start + 200)))
    piece = data[start:end]
    match draw(st.sampled_from(("flip", "cut", "end", "repeat", "insert", "code"))):
        case "flip":
            piece = bytes(byte ^ draw(st.integers(1, 255)) for byte in piece[:3]) + piece[3:]
        case "cut":
            piece = b""
        case "end":
            return data[:start]
        case "repeat":
            piece *= draw(st.integers(2, 300))
        case "insert":
            piece = draw(st.binary(min_size=1, max_size=20)) + piece
        case "code":
            text = data.decode("utf-8", "replace")
            return draw(
                st.sampled_from((text.encode("utf-16"), b"\xef\xbb\xbf" + data, b" \n" + data, data.rstrip(b"}")))
            )
    return data[:start] + piece + data[end:]


# --- of JSON ---

VALUES = (
    *("null", "true", "false", "[]", "{}", '""', '"x"', "0", "-1", "-0.0", "0.5", "1.5", "100.001", "10000", "[[]]"),
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "9" * 400, "9" * 5000, "1" + "0" * 308),
    *('"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"\\n"', '"NaN"', '"1"', '[{"a": 1}]', '{"Name": []}', '{"code": "x"}'),
    *("[" * 900 + "]" * 900, "[" * 50_000, "[" * 50_000 + "]" * 50_000, '{"a":' * 3000 + "1" + "}" * 3000),
    *('"' + "a" * 100_000 + '"', '"' + "image " * 20_000 + '"'),
    '"' + "-" * 70_000 + " " + "-" * MOST_KEPT + '"',  # more than is kept of an error, and hardly a space in it
)  # fmt: skip
MARK = "the value that is replaced"


@st.composite
def of_json(draw: st.DrawFn, value: Any) -> bytes:
    """A value somewhere in it replaced by another one, or its key."""
    value = copy.deepcopy(value)
    holders = [
        (holder, key)
        for holder in _within(value)
        for key in (list(holder) if isinstance(holder, dict) else range(len(holder)))
    ]
    if not holders:
        return draw(st.sampled_from(VALUES)).encode()
    holder, key = draw(st.sampled_from(holders))
    if isinstance(holder, dict) and draw(st.integers(0, 9)) == 0:
        holder["z"] = holder.pop(key)
        return json.dumps(value).encode()
    holder[key] = MARK
    return json.dumps(value).replace(json.dumps(MARK), draw(st.sampled_from(VALUES))).encode()


def _within(value: Any) -> Iterator[Any]:
    """It and everything in it that holds something."""
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _within(inner)


# --- of messages ---

VARINT, BYTES, FIXED32 = 0, 2, 5
FLOATS = tuple(struct.pack("<f", x) for x in (math.nan, math.inf, -math.inf, -1.0, -0.0, 1.00001, 1.5, 1e-45, 3e38))
HUGE = (2**31 - 1, 2**32 + 10_000, 2**63, 2**64 - 1, 2**70)


def varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])


def one_field(number: int, kind: int, value: bytes) -> bytes:
    size = varint(len(value)) if kind == BYTES else b""
    return varint(number << 3 | kind) + size + (varint(int.from_bytes(value, "little")) if kind == VARINT else value)


def fields_of(data: bytes) -> list[tuple[int, int, bytes]]:
    try:
        return list(protobuf._fields(data))
    except ValueError:
        return []


@st.composite
def of_message(draw: st.DrawFn, data: bytes) -> bytes:
    """A field somewhere in it replaced by another one, doubled, or taken out."""
    fields = fields_of(data)
    if not fields:
        return draw(of_bytes(data))
    at = draw(st.integers(0, len(fields) - 1))
    number, kind, value = fields[at]
    written = [one_field(*each) for each in fields]
    if kind == BYTES and fields_of(value) and draw(st.integers(0, 3)):
        written[at] = one_field(number, BYTES, draw(of_message(value)))
    else:
        written[at] = draw(_field(number, value, written[at]))
    return b"".join(written)


@st.composite
def _field(draw: st.DrawFn, number: int, value: bytes, whole: bytes) -> bytes:
    match draw(st.sampled_from(("none", "twice", "type", "long", "deep", "bytes", "float", "huge", "number"))):
        case "none":
            return b""
        case "twice":
            return whole * draw(st.sampled_from((2, 3, 200)))
        case "type":
            return varint(number << 3 | draw(st.integers(0, 7))) + value
        case "long":
            return varint(number << 3 | BYTES) + varint(draw(st.sampled_from(HUGE))) + value
        case "deep":
            for _ in range(draw(st.sampled_from((3, 90, 300)))):
                value = one_field(number, BYTES, value)
            return value
        case "bytes":
            texts = st.sampled_from((b"\xed\xa0\x80", b"\xff", b"\x00", b"", b"\xf4\x90\x80\x80", b"a" * 100_000))
            return one_field(number, BYTES, draw(texts | st.binary(max_size=30)))
        case "float":
            return one_field(number, FIXED32, draw(st.sampled_from(FLOATS)))
        case "huge":
            return varint(number << 3 | VARINT) + varint(draw(st.sampled_from(HUGE)))
    return one_field(draw(st.sampled_from((1, 2, 15, 16, 2**29 - 1))), BYTES, value)
