"""What Azure's two image-analysis wires share: the key, the form of errors, the failures of the service.

Sources and doubts are those of :mod:`~apibench.emulator.computervision` and :mod:`~apibench.emulator.imageanalysis`.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qsl

from apibench.emulator.answerer import Answerer
from apibench.emulator.faults import FaultKind
from apibench.emulator.terms import terms
from apibench.emulator.wire import Reply, Request
from apibench.query.contract import WireKind

KEY_HEADER = "ocp-apim-subscription-key"
LEAST = 0.01  # tags below it are not reported; the service's own threshold is not known


class RefusedError(Exception):
    """An error reply in the making: its status and codes on the wire, and its message."""

    def __init__(self, status: int, code: str, message: str, inner: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.inner = inner


def invalid(inner: str | None, message: str) -> RefusedError:
    return RefusedError(400, "InvalidRequest", message, inner)


def failed() -> RefusedError:
    return RefusedError(500, "InternalServerError", "Internal server error.")


class CognitiveWire(ABC):
    """``accepted_keys``: the keys that are known; None takes any."""

    provider = "azure"
    kind = WireKind.HTTP
    path: str  # of the one operation that is emulated
    operation: str
    throttled: str  # what it says when it throttles

    def __init__(self, accepted_keys: Collection[str] | None = None) -> None:
        self._accepted = None if accepted_keys is None else frozenset(accepted_keys)

    @property
    def call(self) -> str:
        return f"POST {self.path}"

    @abstractmethod
    def claims(self, request: Request) -> bool:
        """As :meth:`apibench.emulator.wire.Wire.claims` says."""

    @abstractmethod
    def _content(self, request: Request, answerer: Answerer) -> dict[str, Any]:
        """The answer's own fields. Raises RefusedError."""

    def answer(self, request: Request, answerer: Answerer) -> Reply:
        try:
            if (request.method, path_of(request)) != ("POST", self.path):
                raise RefusedError(404, "404", "Resource not found")
            self._authenticate(request)
            content = self._content(request, answerer)
        except RefusedError as refused:
            return error(request, refused)
        content["modelVersion"] = f"emulated/{answerer.name}"
        digest = hashlib.sha256(request.body).hexdigest()
        return Reply(200, json.dumps(content).encode(), headers(request), operation=self.operation, billed=(digest,))

    def failure(self, request: Request, kind: FaultKind) -> Reply:
        match kind:
            case FaultKind.EXPIRED:  # a key that was replaced is a wrong one
                return error(request, _denied())
            case FaultKind.UNAVAILABLE:
                return error(request, RefusedError(503, "ServiceUnavailable", "The service is unavailable."))
            case FaultKind.INTERNAL:
                return error(request, failed())
            case _:
                return error(request, RefusedError(429, "429", self.throttled), (("Retry-After", "1"),))

    def _authenticate(self, request: Request) -> None:
        """Whether there is a key, and a known one. Nothing of it is repeated in a reply."""
        key = request.headers.get(KEY_HEADER, "")
        if not key or (self._accepted is not None and key not in self._accepted):
            raise _denied()


def _denied() -> RefusedError:
    return RefusedError(
        401,
        "401",
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key "
        "for an active subscription and use a correct regional API endpoint for your resource.",
    )


def path_of(request: Request) -> str:
    return request.path.partition("?")[0]


def query_of(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.path.partition("?")[2], keep_blank_values=True))


def check_media(request: Request) -> None:
    """An image is sent as it is. Raises RefusedError for a form, or the address of one."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/octet-stream":
        message = "Unsupported media type: the Content-Type must be application/octet-stream."
        raise RefusedError(415, "InvalidRequest", message, "UnsupportedMediaType")


def tags(probabilities: Any) -> list[dict[str, Any]]:
    """Names in lower case, highest confidence first."""
    return [{"name": term.name.lower(), "confidence": term.score} for term in terms(probabilities, LEAST)]


def headers(request: Request) -> tuple[tuple[str, str], ...]:
    return (("Content-Type", "application/json; charset=utf-8"), ("apim-request-id", request.id))


def error(request: Request, refused: RefusedError, extra: tuple[tuple[str, str], ...] = ()) -> Reply:
    content: dict[str, Any] = {"code": refused.code, "message": refused.message}
    if refused.inner is not None:
        content["innererror"] = {"code": refused.inner, "message": refused.message}
    body = json.dumps({"error": content}).encode()
    return Reply(refused.status, body, (*headers(request), *extra), outcome=refused.inner or refused.code)
