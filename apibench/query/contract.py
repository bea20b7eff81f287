"""The provider contract: all that an adapter may import from apibench, and all that the engine knows of a provider.

A provider takes a batch of encoded images and gives one outcome each: an :class:`Answer` with the raw response, or a
:class:`ProviderError` of one of six kinds. It never retries, sleeps or caches: the SDK's own retries are switched off, and the
engine alone decides. This module imports neither torch nor any SDK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable


class ErrorKind(StrEnum):
    """Why a provider gave no answer. The engine retries the first two, and PROTOCOL; CREDENTIALS and QUOTA stop a run."""

    THROTTLED = "throttled"  # the vendor asks for fewer requests a second
    TRANSIENT = "transient"  # 5xx, a time-out, a dropped connection: the same request may succeed later
    REJECTED = "rejected"  # this image is refused, and will be refused again
    CREDENTIALS = "credentials"  # missing, wrong or expired keys, or no permission
    QUOTA = "quota"  # the account's quota or plan is used up
    PROTOCOL = "protocol"  # an answer that is not what the vendor documents (a malformed 200, for one)


class ProviderError(Exception):
    """A request that brought no labels.

    ``message`` is a line for a person and holds no secret. ``code`` is the vendor's own error code, ``status`` the HTTP status.
    ``retry_after`` is in seconds, where the vendor gave it. ``raw`` is the body as received, where there was one.
    ``uncertain`` says that the request may have been answered (and billed) without the answer reaching us: a time-out, a
    drop, an unreadable body. An error that the vendor itself reported is certain.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        raw: bytes | None = None,
        uncertain: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.code = code
        self.status = status
        self.retry_after = retry_after
        self.raw = raw
        self.uncertain = uncertain


@dataclass(frozen=True)
class Label:
    """One label of an answer, in the vendor's order. ``score`` is in [0, 1]; ``id`` is the vendor's own, where it has one."""

    name: str
    score: float
    id: str | None = None
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parsed:
    """What a raw response says: its labels, in the vendor's order, and the model version it names (None: it names none)."""

    labels: tuple[Label, ...]
    model_version: str | None = None


@dataclass(frozen=True)
class Answer:
    """A request that brought labels. ``raw`` is the body exactly as received: it is what was paid for."""

    raw: bytes
    parsed: Parsed
    request_id: str | None = None


Outcome = Answer | ProviderError


@dataclass(frozen=True)
class EncodedImage:
    """An image as it is sent: the bytes, and their SHA-256 in hex (its identity in the store)."""

    data: bytes
    sha256: str


class WireKind(StrEnum):
    """What an SDK speaks, as far as an emulator has to know: it listens on a port for each."""

    HTTP = "http"
    GRPC = "grpc"


@dataclass(frozen=True)
class ProviderInfo:
    """What a vendor documents of its API.

    ``hosts`` are regular expressions that match the whole of the API's own host names; any other host is not live (a vendor's
    domain holds its customers' machines too). ``max_batch``: images that one request may hold. ``extra``: what pip calls the
    SDK, if not by the provider's name.
    """

    name: str  # as on the command line: "aws"
    title: str  # as in a table: "AWS Rekognition"
    hosts: tuple[str, ...]
    max_batch: int = 1
    rate_per_second: float = 5.0
    extra: str | None = None


@dataclass(frozen=True)
class ProviderOptions:
    """What the engine tells an adapter.

    ``endpoint`` (a URL, whatever the wire) None means the SDK's own choice, with the user's own credentials by the vendor's
    usual chain. ``emulated`` means fixed fake credentials, never real ones, no proxy, and an ``endpoint`` on loopback.
    ``timeout`` is in seconds, for connecting and for reading each (over gRPC: for the whole call). ``settings`` overrides the
    adapter's defaults (MaxLabels, for one).
    """

    endpoint: str | None = None
    emulated: bool = False
    timeout: float = 30.0
    concurrency: int = 4
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@runtime_checkable
class Provider(Protocol):
    """One vendor's API. ``label`` may be called from several threads at once."""

    info: ProviderInfo

    @property
    def settings(self) -> Mapping[str, str | int | float | bool]:
        """All that alters the answer and is not the image: part of the store's key. Never a secret, never an endpoint."""

    @property
    def host(self) -> str:
        """The host that the SDK resolved, without port: what ``origin`` is judged by."""

    def label(self, images: Sequence[EncodedImage]) -> list[Outcome]:
        """Send one request with ``images`` (at most ``info.max_batch``); one outcome each, in order. Never raises for a reply."""

    def close(self) -> None: ...


class Adapter(Protocol):
    """What an entry point of the group ``apibench.providers`` names: an object or module with these members.

    ``info`` and ``parse`` work without the vendor's SDK installed, so that a report can be made anywhere.
    """

    info: ProviderInfo

    def settings(self, options: ProviderOptions) -> Mapping[str, str | int | float | bool]:
        """The settings that ``create`` would use, without credentials or SDK. Raises ValueError naming a wrong one."""

    def endpoint(self, options: ProviderOptions) -> str | None:
        """The URL that ``create`` would send to, without credentials or SDK; None: the SDK's own choice, the vendor's host."""

    def wire(self, options: ProviderOptions) -> WireKind:
        """What ``create``'s client would speak. Raises ValueError naming a wrong setting."""

    def create(self, options: ProviderOptions) -> Provider:
        """Import the SDK and build a client; send nothing that is billed.

        Raises ProviderError (CREDENTIALS) where there are no keys, or a host that must not have them.
        """

    def parse(self, raw: bytes) -> Parsed:
        """Read a stored response again. Raises ProviderError (PROTOCOL) where it is not what the vendor documents."""
