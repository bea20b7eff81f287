"""Reading serialised protobuf messages by field number, without the vendor's generated classes.

A gRPC response is stored as the bytes that came over the wire: they are what was paid for. A report must be able to read them
again anywhere, also where the SDK is not installed, so this module reads the encoding itself
(https://protobuf.dev/programming-guides/encoding/): varints, fixed-width numbers and length-delimited fields. Groups, which
proto3 does not have, are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Message:
    """The fields of one message. Raises ValueError where the bytes are not a message (cut short, for one).

    As in proto3, a number or a text that is not there is 0 or empty, and of several the last one counts. Asking for a field
    as what it is not raises ValueError.
    """

    def __init__(self, data: bytes) -> None:
        self._fields: dict[int, list[tuple[int, bytes]]] = {}
        for number, kind, value in _fields(data):
            self._fields.setdefault(number, []).append((kind, value))

    def messages(self, number: int) -> list[Message]:
        """A repeated message field."""
        return [Message(value) for value in self._all(number, _BYTES)]

    def message(self, number: int) -> Message:
        """A singular message field; an empty message where it is not there.

        Several of them are parts of one, and read as if they were written one after the other.
        """
        return Message(b"".join(self._all(number, _BYTES)))

    def serialised(self, number: int) -> list[bytes]:
        """A repeated message field, each as its bytes came."""
        return self._all(number, _BYTES)

    def has(self, number: int) -> bool:
        return number in self._fields

    def data(self, number: int) -> bytes:
        found = self._all(number, _BYTES)
        return found[-1] if found else b""

    def text(self, number: int) -> str:
        """UTF-8 text. Raises ValueError (a UnicodeDecodeError is one) where it is not."""
        return self.data(number).decode("utf-8")

    def float32(self, number: int) -> float:
        """A float field, by its shortest decimal form: 0.98, not 0.9800000190734863, as the same number comes in JSON."""
        found = self._all(number, _FIXED32)
        exact = struct.unpack("<f", found[-1])[0] if found else 0.0
        forms = (float(f"{exact:.{digits}g}") for digits in range(6, 10))
        return next((form for form in forms if _float32(form) == exact), exact)

    def integer(self, number: int) -> int:
        """An int32, int64 or enum field."""
        found = self._all(number, _VARINT)
        value = int.from_bytes(found[-1], "little") if found else 0
        return value - (1 << 64) if value >= 1 << 63 else value

    def _all(self, number: int, kind: int) -> list[bytes]:
        found = self._fields.get(number, [])
        if any(other != kind for other, _ in found):
            raise ValueError(f"field {number} is of another type")
        return [value for _, value in found]


def field(number: int, data: bytes) -> bytes:
    """A message field as it is written: ``number`` from 1 to 15, the length, ``data``."""
    if not 1 <= number <= 15:
        raise ValueError(f"field {number} needs more than a byte")
    size, length = len(data), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | _BYTES, *length, size]) + data


def _float32(value: float) -> float:
    """Rounded to a float32; what is beyond its range stays as it is."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return value


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("a field without a number")
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, kind, value.to_bytes(8, "little")
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of wire type {kind}")
        if at + size > len(data):
            raise ValueError("the message is cut short")
        yield number, kind, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    if at < len(data) and data[at] < 0x80:  # one byte: nearly all of them
        return data[at], at + 1
    value = 0
    for place in range(10):
        if at + place >= len(data):
            raise ValueError("the message is cut short")
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value & ((1 << 64) - 1), at + place + 1
    raise ValueError("a number of more than ten bytes")
