"""What a vendor's wire protocol is to the servers: requests in, replies out. A further vendor is a further :class:`Wire`.

A gRPC call is a request like any other: its method is the path, its metadata the headers, its serialised message the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from apibench.emulator.answerer import Answerer
from apibench.emulator.faults import FaultKind
from apibench.query.contract import WireKind

ANSWERED = "answered"


@dataclass(frozen=True)
class Request:
    """A request as received. Header names are in lower case; ``path`` has the query; ``id`` is the emulator's own for it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    id: str


@dataclass(frozen=True)
class RpcError:
    """How a gRPC call ends that has no message: the status' name, its text, and a serialised google.rpc.Status, if any."""

    code: str  # "RESOURCE_EXHAUSTED"
    message: str
    details: bytes | None = None


@dataclass(frozen=True)
class Reply:
    """A reply. ``outcome`` is :data:`ANSWERED` or the vendor's error code.

    Over gRPC ``body`` is the serialised message and ``status`` means nothing; with ``rpc`` there is no message.

    ``billed``: SHA-256 of each image that labels were computed for, empty unless answered; a line of the bill each. ``cut``:
    send only so many bytes of the body, then close the connection. ``slow``: take so many seconds to send the body. ``reset``:
    send nothing, and reset the connection.
    """

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    outcome: str = ANSWERED
    operation: str = ""
    billed: tuple[str, ...] = ()
    cut: int | None = None
    rpc: RpcError | None = None
    slow: float = 0.0
    reset: bool = False


class Wire(Protocol):
    """One vendor's protocol. A vendor that speaks two has two."""

    provider: str  # as in the bill, and on the command line: "aws"
    title: str  # "AWS Rekognition"
    call: str  # what it answers, to whoever asked for something else: "POST /vision/v3.2/tag"
    kind: WireKind

    def claims(self, request: Request) -> bool:
        """Whether this request is for this vendor, by its path and headers."""

    def answer(self, request: Request, answerer: Answerer) -> Reply:
        """Answer or refuse a request, as the vendor would."""

    def failure(self, request: Request, kind: FaultKind) -> Reply:
        """The vendor's reply when throttling (``throttle``, ``provisioned``, ``429``), failing (``500``, ``503``) or to a key
        that has ``expired``.
        """
