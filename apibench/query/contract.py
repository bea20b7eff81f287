"""The provider contract: all that an adapter may import from apibench, and all that the engine knows of a provider.

A provider takes a batch of encoded images and gives one outcome each: an :class:`Answer` with the raw response, or a
:class:`ProviderError` of one of six kinds. It never retries, sleeps or caches: the SDK's own retries are switched off, and the
engine alone decides. This module imports neither torch nor any SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol, runtime_checkable

from apibench.query.redact import LEAST_IN_ANSWERS, mask, mask_text, redact


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

    ``message`` is a line for a person; what in it is or looks like a secret is taken out here (:mod:`apibench.query.redact`), so
    that no adapter can forget to. ``code`` is the vendor's own error code, ``status`` the HTTP status.
    ``retry_after`` is in seconds, where the vendor gave it. ``raw`` is the body as received, where there was one.
    ``uncertain`` says that the request may have been answered (and billed) without the answer reaching us: a time-out, a
    drop, an unreadable body. An error that the vendor itself reported is certain. ``sent`` False says that nothing can have
    reached the vendor (a refused connection, a name that does not resolve): such a request counts against no cap.
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
        sent: bool = True,
    ) -> None:
        self.kind = kind
        self.message = redact(message, most=600)
        super().__init__(self.message)
        self.code = None if code is None else redact(code)
        self.status = status
        self.retry_after = retry_after
        self.raw = None if raw is None else mask(raw)
        self.uncertain = uncertain
        self.sent = sent


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
    """A request that brought labels. ``raw`` is the body exactly as received: it is what was paid for.

    Only where it repeats a key of this process, which no vendor's does, there are asterisks in the key's place.
    """

    raw: bytes
    parsed: Parsed
    request_id: str | None = None

    def __post_init__(self) -> None:
        if self.request_id is not None:
            object.__setattr__(self, "request_id", _known(self.request_id))
        raw = mask(self.raw, least=LEAST_IN_ANSWERS)
        if raw != self.raw:
            names = tuple(replace(label, name=_known(label.name)) for label in self.parsed.labels)
            object.__setattr__(self, "raw", raw)
            object.__setattr__(self, "parsed", replace(self.parsed, labels=names))


def _known(text: str) -> str:
    return mask_text(text, least=LEAST_IN_ANSWERS)


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
class ImageLimits:
    """What a vendor documents that it takes of an image, as far as a PNG of 8-bit pixels can be at odds with it.

    ``max_bytes`` of the file; ``max_json`` of a whole request where images travel as base64 in JSON (over HTTP, not gRPC), and
    ``max_request`` where they travel as they are; sides and altogether in pixels, all of them inclusive. None is no limit. The
    pages are named where an adapter sets them.
    """

    max_bytes: int | None = None
    max_json: int | None = None
    max_request: int | None = None
    min_side: int = 1
    max_side: int | None = None
    max_pixels: int | None = None
    formats: tuple[str, ...] = ("PNG",)

    def over(self, wire: WireKind) -> ImageLimits:
        """The limits of one wire: where base64 makes four bytes of three, the others are what ``max_json`` leaves room for."""
        if wire is not WireKind.HTTP or self.max_json is None:
            return replace(self, max_json=None)
        room = (self.max_json - JSON_AROUND_AN_IMAGE) // 4 * 3
        return replace(
            self, max_json=None, max_bytes=min(room, self.max_bytes or room), max_request=self.max_json // 4 * 3
        )

    def together(self, sizes: Iterable[int]) -> bool:
        """Whether images of so many bytes fit into one request. Of one wire's limits."""
        return self.max_request is None or sum(size + JSON_AROUND_AN_IMAGE for size in sizes) <= self.max_request


JSON_AROUND_AN_IMAGE = 1024  # of a request; the adapters' own take a quarter of it, and less over gRPC


@dataclass(frozen=True)
class ProviderInfo:
    """What a vendor documents of its API.

    ``hosts`` are regular expressions that match the whole of the API's own host names; any other host is not live (a vendor's
    domain holds its customers' machines too). ``max_batch``: images that one request may hold. ``rate_per_second``: requests;
    ``rate_verified`` False says that no page of the vendor's gives that number. ``images_per_second``: a limit on images, where
    there is one beside that on requests. ``extra``: what pip calls the SDK, if not by the provider's name. ``limits``: what is
    checked of an image before it is sent. ``taps``: whether the adapter calls ``ProviderOptions.tap``; else nothing is recorded.

    Without ``hosts``, and with clients whose ``host`` is empty, it computes on this machine: its origin is ``local``.
    """

    name: str  # as on the command line: "aws"
    title: str  # as in a table: "AWS Rekognition"
    hosts: tuple[str, ...]
    max_batch: int = 1
    rate_per_second: float = 5.0
    rate_verified: bool = True
    images_per_second: float | None = None
    extra: str | None = None
    limits: ImageLimits = ImageLimits()
    taps: bool = False


@dataclass(frozen=True)
class Exchange:
    """A reply as it came over the wire, before anybody read it: what a recording holds.

    ``method`` is the operation, as an HTTP path or a gRPC method ("/v1/images:annotate"). ``headers`` have names in lower case;
    an adapter hands on those that it reads. ``rpc`` is how a gRPC call ended that has no message: the status' name, its text,
    and a serialised google.rpc.Status, if any; ``body`` is then empty, and ``status`` 0 over gRPC anyway.
    """

    wire: WireKind
    method: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    rpc: tuple[str, str, bytes | None] | None = None


def _nobody(_: Exchange) -> None:
    """Nothing is recorded."""


@dataclass(frozen=True, repr=False)
class ProviderOptions:
    """What the engine tells an adapter.

    ``endpoint`` (a URL, whatever the wire) None means the SDK's own choice, with the user's own credentials by the vendor's
    usual chain. ``emulated`` means fixed fake credentials, never real ones, no proxy, and an ``endpoint`` on loopback.
    ``timeout`` is in seconds, for connecting, and then for the whole call to the last byte of its reply (over gRPC: for both
    together). ``settings`` overrides the adapter's defaults (MaxLabels, for one). ``tap`` is told every reply, in the thread that
    called ``label``.
    """

    endpoint: str | None = None
    emulated: bool = False
    timeout: float = 30.0
    concurrency: int = 4
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    tap: Callable[[Exchange], None] = _nobody

    def __repr__(self) -> str:
        """Without what a user may have put into an address or a setting."""
        return redact(
            f"ProviderOptions(endpoint={self.endpoint!r}, emulated={self.emulated}, timeout={self.timeout}, "
            f"concurrency={self.concurrency}, settings={dict(self.settings)})"
        )


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
