"""Reading a BatchAnnotateImagesResponse, in either of its forms, without the SDK.

https://cloud.google.com/vision/docs/reference/rest/v1/AnnotateImageResponse. Over HTTP it is JSON, over gRPC a serialised
message. The two are told apart by what they hold: no message begins with ``{`` (that byte opens a group, which proto3 does not
have), and JSON after white space is not a message that holds responses. In both forms a field that is not there has its default
value: a label without ``score`` has 0, a response without ``labelAnnotations`` no labels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from apibench.query.contract import Answer, Label, Outcome, Parsed
from apibench_adapters.common import UNREADABLE, items, score, text, unreadable
from apibench_adapters.protobuf import Message, field

# The API names no model version. The emulator says who answered in a field of the schema that is otherwise an address.
EMULATED = "emulated/"

# Field numbers of google/cloud/vision/v1/image_annotator.proto.
RESPONSES = 1
LABELS, ERROR, CONTEXT = 4, 9, 21
MID, DESCRIPTION, SCORE = 1, 3, 4
CODE, MESSAGE, URI = 1, 2, 1

# google/rpc/code.proto, by number.
CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)


@dataclass(frozen=True)
class _Read:
    """What is said of one image. ``code`` is 0 where nothing is wrong."""

    labels: tuple[Label, ...]
    uri: str
    code: int
    message: str

    @property
    def is_answer(self) -> bool:
        # "filled-in image annotations are guaranteed to be correct, even when error is set" (AnnotateImageResponse)
        return bool(self.labels) or self.code == 0

    @property
    def parsed(self) -> Parsed:
        return Parsed(self.labels, self.uri if self.uri.startswith(EMULATED) else None)


def parse(raw: bytes) -> Parsed:
    """Read the response to one image. Raises ProviderError (PROTOCOL) where it is not one, or holds an error only."""
    try:
        (entry,) = _entries(raw)
        read = _read(entry)
        if not read.is_answer:
            raise ValueError(f"error {read.code}")
        return read.parsed
    except UNREADABLE as error:
        raise unreadable(raw, error) from error


def outcomes(raw: bytes, images: int) -> list[Outcome]:
    """What a response says of each of so many images. Without exactly one part an image, none can be told whose it is."""
    try:
        entries = _entries(raw)
        if len(entries) != images:
            raise ValueError(f"{len(entries)} responses, not {images}")
    except UNREADABLE as error:
        return [unreadable(raw, error) for _ in range(images)]
    return [_outcome(entry, raw if images == 1 else _alone(entry)) for entry in entries]


def _outcome(entry: Any, raw: bytes) -> Outcome:
    try:
        read = _read(entry)
        if read.is_answer:
            return Answer(raw, read.parsed)
        name = CODES[read.code] if 0 <= read.code < len(CODES) else f"code {read.code}"
    except UNREADABLE as error:
        return unreadable(raw, error)
    from apibench_adapters.google_errors import of_image  # with grpc, which the SDK that brought this reply has

    return of_image(name, read.message, raw)


# --- the two forms ---


def _entries(raw: bytes) -> list[Any]:
    """An AnnotateImageResponse for each image: dicts of JSON, or serialised messages."""
    if raw[:1] != b"{":
        try:
            return _messages(raw)
        except ValueError:
            if raw.lstrip()[:1] != b"{" and not raw.isascii():
                raise
    return items(json.loads(raw)["responses"], "responses")


def _messages(raw: bytes) -> list[bytes]:
    """Raises ValueError where any message within is none, so that text is not taken for one."""
    entries = Message(raw).serialised(RESPONSES)
    for entry in map(Message, entries):
        entry.messages(LABELS), entry.messages(ERROR), entry.messages(CONTEXT)
    if not entries:
        raise ValueError("no responses")
    return entries


def _alone(entry: Any) -> bytes:
    """A response of the same form that holds this entry alone."""
    return field(RESPONSES, entry) if isinstance(entry, bytes) else json.dumps({"responses": [entry]}).encode()


def _read(entry: Any) -> _Read:
    return _read_message(Message(entry)) if isinstance(entry, bytes) else _read_json(entry)


def _read_message(entry: Message) -> _Read:
    labels = tuple(
        Label(
            text(label.text(DESCRIPTION), "description"),
            score(label.float32(SCORE), "score"),
            label.text(MID) or None,
        )
        for label in entry.messages(LABELS)
    )
    error = entry.message(ERROR)
    return _Read(labels, entry.message(CONTEXT).text(URI), error.integer(CODE), error.text(MESSAGE))


def _read_json(entry: Any) -> _Read:
    labels = tuple(
        Label(
            text(label.get("description"), "description"),
            score(_given(label.get("score"), 0.0), "score"),
            text(label["mid"], "mid") if label.get("mid") else None,
        )
        for label in items(_given(entry.get("labelAnnotations"), []), "labelAnnotations")
    )
    error = _given(entry.get("error"), {})
    code, message = _given(error.get("code"), 0), _given(error.get("message"), "")
    uri = _given(_given(entry.get("context"), {}).get("uri"), "")
    if not isinstance(code, int) or not isinstance(message, str) or not isinstance(uri, str):
        raise TypeError("error or context is not what it should be")
    return _Read(labels, uri, code, message)


def _given(value: Any, default: Any) -> Any:
    """A field of JSON that is null is as one that is not there."""
    return default if value is None else value
