"""Clarifai: ``PostModelOutputs`` of the V2 API, over gRPC through clarifai-grpc.

https://docs.clarifai.com/resources/api-overview/api-outputs (replies) and .../api-overview/status-codes. The vendor's larger
package, ``clarifai``, is not used: it retries in three layers and has no time-out. The channel is ours, without retries; it is
from the vendor's own host, or from where ``--endpoint`` says, never from ``CLARIFAI_API_BASE`` or ``CLARIFAI_GRPC_BASE``.
Clarifai reports nearly every error in the message's own status, and an image's in its output's: the gRPC status is then OK.

A raw response is a serialised MultiOutputResponse. For a request with one image it is the message as received; for one with
several, each image's is a MultiOutputResponse of the status and that image's output, both byte for byte as received.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from apibench.query.contract import (
    Answer,
    EncodedImage,
    ErrorKind,
    ImageLimits,
    Label,
    Outcome,
    Parsed,
    ProviderError,
    ProviderInfo,
    ProviderOptions,
    WireKind,
)
from apibench_adapters.clarifai_status import (
    ALL_INPUT_INVALID_BYTES,
    MAYBE_DONE,
    OF_THE_MODEL,
    OPEN,
    SUCCESSES,
    kind_of,
    name_of,
)
from apibench_adapters.common import (
    UNREADABLE,
    Settings,
    check_endpoint,
    check_key,
    matching,
    merged,
    real,
    redact,
    score,
    text,
    unreadable,
    whole,
)
from apibench_adapters.protobuf import Message, field

if TYPE_CHECKING:
    from apibench_adapters.rpc import KeepingChannel

INFO = ProviderInfo(
    name="clarifai",
    title="Clarifai",
    hosts=(r"api\.clarifai\.com",),
    max_batch=128,  # https://docs.clarifai.com/create-manage/inputs/upload
    rate_per_second=15.0,  # https://docs.clarifai.com/resources/api-overview/rate-limits: all plans
    extra="clarifai-lean",
    # https://docs.clarifai.com/create-manage/inputs/upload: less than 20 MB, at most 85 million pixels; and 128 MB a batch, for
    # which a MB is taken for the smaller of its two meanings: one request more costs nothing.
    limits=ImageLimits(max_bytes=20 * 1024 * 1024 - 1, max_request=128_000_000, max_pixels=85_000_000),
    taps=True,
)
ENDPOINT = "https://api.clarifai.com"
NO_CREDENTIALS = "no Clarifai credentials found; set CLARIFAI_PAT to a personal access token"

# max_concepts is the API's own default, said aloud; min_value 0 hides nothing of how far a label fell.
DEFAULTS: dict[str, str | int | float] = {
    "model": "general-image-recognition",
    "model_version": "",
    "user_id": "clarifai",
    "app_id": "main",
    "max_concepts": 20,
    "min_value": 0.0,
}
_ID = r"[A-Za-z0-9_.@-]{1,128}"


class F:
    """Field numbers (clarifai/api/service.proto, resources.proto, status/status.proto): ``MESSAGE_FIELD``."""

    RESPONSE_STATUS, RESPONSE_OUTPUTS = 1, 2
    STATUS_CODE, STATUS_DESCRIPTION, STATUS_DETAILS, STATUS_REQ_ID = 1, 2, 3, 7
    OUTPUT_STATUS, OUTPUT_MODEL, OUTPUT_DATA = 2, 4, 6
    MODEL_MODEL_VERSION = 6
    VERSION_ID = 1
    DATA_CONCEPTS = 3
    CONCEPT_ID, CONCEPT_NAME, CONCEPT_VALUE = 1, 2, 3


class ClarifaiAdapter:
    """What the entry point ``clarifai`` names."""

    info = INFO

    def settings(self, options: ProviderOptions) -> Settings:
        chosen = merged(options, DEFAULTS, INFO.name)
        example = "an id such as {}"
        return {
            "model": matching("model", chosen["model"], _ID, example.format(DEFAULTS["model"])),
            "model_version": matching(
                "model_version", chosen["model_version"], f"({_ID})?", "a version's id, or empty"
            ),
            "user_id": matching("user_id", chosen["user_id"], _ID, example.format(DEFAULTS["user_id"])),
            "app_id": matching("app_id", chosen["app_id"], _ID, example.format(DEFAULTS["app_id"])),
            "max_concepts": whole("max_concepts", chosen["max_concepts"], 1, 200),
            "min_value": real("min_value", chosen["min_value"], 0, 1),
        }

    def endpoint(self, options: ProviderOptions) -> str | None:
        return options.endpoint or ENDPOINT

    def wire(self, options: ProviderOptions) -> WireKind:  # noqa: ARG002 - others have a choice
        return WireKind.GRPC

    def create(self, options: ProviderOptions) -> ClarifaiProvider:
        return ClarifaiProvider(options, self.settings(options), options.endpoint or ENDPOINT)

    def parse(self, raw: bytes) -> Parsed:
        return parse(raw)


adapter = ClarifaiAdapter()


def parse(raw: bytes) -> Parsed:
    """Read a MultiOutputResponse with one output: its concepts, in the vendor's order, and the version of the model."""
    try:
        reply = Message(raw)
        (output,) = reply.messages(F.RESPONSE_OUTPUTS)
        if _Said.of(reply.message(F.RESPONSE_STATUS)).code not in OPEN:
            raise ValueError("the status is no success")
        if _Said.of(output.message(F.OUTPUT_STATUS)).code not in SUCCESSES:
            raise ValueError("the output's status is no success")
        return _parsed(output)
    except UNREADABLE as error:
        raise unreadable(raw, error) from error


def _parsed(output: Message) -> Parsed:
    if not output.has(F.OUTPUT_DATA):
        raise ValueError("an output without data")
    version = output.message(F.OUTPUT_MODEL).message(F.MODEL_MODEL_VERSION).text(F.VERSION_ID)
    concepts = output.message(F.OUTPUT_DATA).messages(F.DATA_CONCEPTS)
    return Parsed(tuple(map(_label, concepts)), text(version, "model_version.id") if version else None)


def _label(concept: Message) -> Label:
    return Label(
        text(concept.text(F.CONCEPT_NAME), "name"),
        score(concept.float32(F.CONCEPT_VALUE), "value"),
        concept.text(F.CONCEPT_ID) or None,
    )


@dataclass(frozen=True)
class _Said:
    """A Status message. Raises ValueError where there is none, or none with a code."""

    code: int
    text: str
    request_id: str | None

    @classmethod
    def of(cls, status: Message) -> _Said:
        parts = (status.text(F.STATUS_DESCRIPTION), status.text(F.STATUS_DETAILS))
        said = ": ".join(dict.fromkeys(filter(None, parts)))  # some details only repeat the description
        code = status.integer(F.STATUS_CODE)
        if not code:
            raise ValueError("no status")
        return cls(code, said, status.text(F.STATUS_REQ_ID) or None)


# The SDK's stub takes from a module global how replies become messages.
_BUILDING = threading.Lock()


def _stub(channel: KeepingChannel) -> Any:
    """A V2Stub that reads gRPC replies, whatever channels the program has made, which set that global; it is put back."""
    from clarifai_grpc.channel import clarifai_channel
    from clarifai_grpc.grpc.api import service_pb2_grpc

    with _BUILDING:
        before = clarifai_channel.wrap_response_deserializer
        clarifai_channel.wrap_response_deserializer = clarifai_channel._response_deserializer_for_grpc
        try:
            return service_pb2_grpc.V2Stub(channel)
        finally:
            clarifai_channel.wrap_response_deserializer = before


class ClarifaiProvider:
    """A channel and a stub. Both are safe to share between threads."""

    def __init__(self, options: ProviderOptions, settings: Settings, endpoint: str) -> None:
        self.info = INFO
        self.settings = settings
        check_endpoint(endpoint, emulated=options.emulated)
        self._key = "EMULATED" if options.emulated else check_key("CLARIFAI_PAT", os.environ.get("CLARIFAI_PAT", ""))
        if not self._key:
            raise ProviderError(ErrorKind.CREDENTIALS, NO_CREDENTIALS)
        self._timeout = options.timeout
        self._endpoint = endpoint

        from apibench_adapters import rpc

        connect = rpc.loopback_channel if options.emulated else rpc.secure_channel
        self._channel = rpc.KeepingChannel(connect(endpoint), options.tap)
        self._stub = _stub(self._channel)

    @property
    def host(self) -> str:
        return urlsplit(self._endpoint).hostname or ""

    def label(self, images: Sequence[EncodedImage]) -> list[Outcome]:
        raw, failure = self._send(images)
        if raw is None:
            return [self._unanswered(failure, len(images))] * len(images)
        return self._read(raw, len(images))

    def _send(self, images: Sequence[EncodedImage]) -> tuple[bytes | None, Exception | None]:
        """The message that came, or None and why not."""
        received = self._channel.received
        received.raw = None
        try:
            metadata = (("authorization", f"Key {self._key}"),)
            self._stub.PostModelOutputs(self._request(images), metadata=metadata, timeout=self._timeout)
        except Exception as error:  # noqa: BLE001 - an RpcError, or what the SDK makes of a reply that it cannot read
            return received.raw, error
        return received.raw, None

    def close(self) -> None:
        self._channel.close()

    def _request(self, images: Sequence[EncodedImage]) -> Any:
        from clarifai_grpc.grpc.api import resources_pb2 as resources
        from clarifai_grpc.grpc.api import service_pb2

        chosen = self.settings
        wanted = resources.OutputConfig(max_concepts=chosen["max_concepts"], min_value=chosen["min_value"])
        return service_pb2.PostModelOutputsRequest(
            user_app_id=resources.UserAppIDSet(user_id=chosen["user_id"], app_id=chosen["app_id"]),
            model_id=chosen["model"],
            version_id=chosen["model_version"],
            # The field is called base64 for JSON's sake; here it holds the bytes themselves.
            inputs=[resources.Input(data=resources.Data(image=resources.Image(base64=image.data))) for image in images],
            model=resources.Model(output_info=resources.OutputInfo(output_config=wanted)),
        )

    def _read(self, raw: bytes, count: int) -> list[Outcome]:
        """The outcomes of a message for ``count`` images."""
        try:
            reply = Message(raw)
            said = _Said.of(reply.message(F.RESPONSE_STATUS))
            outputs = reply.serialised(F.RESPONSE_OUTPUTS)
            answered = said.code in SUCCESSES or bool(outputs)
            if said.code not in OPEN or not answered:
                return [self._refused(said, raw, count, answered)] * count
            if len(outputs) != count:
                raise ValueError(f"{len(outputs)} outputs for {count} images")
            status = b"".join(field(F.RESPONSE_STATUS, part) for part in reply.serialised(F.RESPONSE_STATUS))
        except UNREADABLE as error:
            return [self._unreadable(raw, error)] * count
        raws = [raw] if count == 1 else [status + field(F.RESPONSE_OUTPUTS, output) for output in outputs]
        return [self._one(own, output, said.request_id) for own, output in zip(raws, outputs, strict=True)]

    def _one(self, raw: bytes, serialised: bytes, request_id: str | None) -> Outcome:
        """The outcome of one image; ``raw`` is the message that holds its output alone."""
        try:
            output = Message(serialised)
            said = _Said.of(output.message(F.OUTPUT_STATUS))
            if said.code in SUCCESSES:
                return Answer(raw, _parsed(output), request_id)
        except UNREADABLE as error:
            return self._unreadable(raw, error)
        return self._refused(said, raw, 1)

    def _refused(self, said: _Said, raw: bytes, count: int, answered: bool = False) -> ProviderError:
        """An error of the vendor's own: of one image, or of all ``count`` of a request (``answered``: with outputs)."""
        kind, name = kind_of(said.code), name_of(said.code)
        message = f"{name}: {said.text}" if said.text else f"status {name}"
        if said.code in OF_THE_MODEL:
            message += f" (model {'/'.join(str(self.settings[name]) for name in ('user_id', 'app_id', 'model'))})"
        if kind is ErrorKind.REJECTED and count > 1 and said.code != ALL_INPUT_INVALID_BYTES:
            # Which of them it is, nobody says, and the others must not be refused for it.
            kind, message = ErrorKind.PROTOCOL, f"one of {count} images was refused; send one at a time ({message})"
        return ProviderError(
            kind or ErrorKind.PROTOCOL,
            redact(message, self._key),
            code=name,
            raw=self._masked(raw),
            uncertain=kind is None or answered or said.code in MAYBE_DONE,
        )

    def _unreadable(self, raw: bytes, error: Exception) -> ProviderError:
        found = unreadable(b"", error, self._key)
        found.raw = self._masked(raw)
        return found

    def _masked(self, raw: bytes) -> bytes:
        """A message without the key, of the same length, so that it can still be read as one."""
        return raw.replace(self._key.encode(), b"*" * len(self._key))

    def _unanswered(self, failure: Exception | None, count: int) -> ProviderError:
        """No message came."""
        import grpc

        from apibench_adapters.rpc import Status

        if not isinstance(failure, grpc.RpcError):
            message = redact(f"no message came ({type(failure).__name__}: {failure})", self._key)
            return ProviderError(ErrorKind.PROTOCOL, message, uncertain=True)
        status = Status.of(failure)
        kind = None
        if status.code == "RESOURCE_EXHAUSTED" and "larger than max" in status.details:
            # gRPC's own word for a request that is too large, for which waiting is no remedy.
            kind = ErrorKind.REJECTED if count == 1 else ErrorKind.PROTOCOL
        return status.error(kind, self._key)
