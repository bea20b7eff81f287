"""What Google's APIs say of a call that failed, over either wire, and what that means.

https://cloud.google.com/apis/design/errors: a google.rpc.Status, as ``{"error": ...}`` over HTTP and as trailing metadata over
gRPC, with details: ErrorInfo (a reason, and of a quota its name and unit) and RetryInfo (how long to wait). Imports grpc.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from apibench.query.contract import ErrorKind, ProviderError
from apibench_adapters.common import UNREADABLE, kind_of_status, redact, redact_body, seconds
from apibench_adapters.protobuf import Message
from apibench_adapters.rpc import KINDS, MAYBE_DONE, NOT_THERE, Status

if TYPE_CHECKING:
    import requests

DETAILS = "grpc-status-details-bin"

# About an image, or the size of what was sent: the image's own fault where there is one. Of the service's words for the former
# only "Bad image data." is documented; what is not about an image must not refuse it for good.
_OF_THE_IMAGE = re.compile(
    r"payload size exceeds|larger than max|bad image|"
    r"\bimage\b.*\b(?:data|format|size|large|small|corrupt\w*|decod\w*|dimensions?|pixels?|bytes)\b",
    re.IGNORECASE,
)
_READ = 1000  # characters of a message: "image", again and again, would keep the search above busy for hours
_OF_THE_KEY = re.compile(r"API key (?:not valid|expired)|billing", re.IGNORECASE)
# What is used up for the day comes back tomorrow, not in a minute. Reasons: google/api/error_reason.proto, and older APIs'.
_DAILY = re.compile(r"^1/d\b|PerDay|per day", re.IGNORECASE)
_QUOTA = {"RESOURCE_QUOTA_EXCEEDED", "dailyLimitExceeded", "quotaExceeded"}
_RATE = {"RATE_LIMIT_EXCEEDED", "rateLimitExceeded", "userRateLimitExceeded"}


@dataclass(frozen=True)
class Failure:
    """An error that the service itself reported. ``name`` is the status' ("RESOURCE_EXHAUSTED"), "" where it has none."""

    name: str
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after: float | None = None

    @classmethod
    def of_json(cls, raw: bytes) -> Failure | None:
        """Read an error's body; None where it is not one of Google's (a proxy's page, or nothing)."""
        try:
            body = json.loads(raw)
            error = (body[0] if isinstance(body, list) else body)["error"]
            name, message = str(error.get("status") or ""), str(error["message"])
            details = [detail for detail in error.get("details") or () if isinstance(detail, dict)]
            info: Mapping[str, Any] = _detail(details, "ErrorInfo")
            older: Mapping[str, Any] = next(iter(error.get("errors") or ()), {})
            metadata = {str(key): str(value) for key, value in (info.get("metadata") or {}).items()}
            return cls(
                name,
                message,
                str(info.get("reason") or older.get("reason") or ""),
                metadata,
                _duration(_detail(details, "RetryInfo").get("retryDelay")),
            )
        except UNREADABLE:
            return None

    @classmethod
    def of_status(cls, status: Status) -> Failure:
        """Read a gRPC status and its details, where they can be read."""
        details = status.trailers.get(DETAILS)
        reason, metadata, retry_after = "", {}, None
        try:
            for detail in Message(details if isinstance(details, bytes) else b"").messages(3):
                value = Message(detail.data(2))
                if detail.text(1).endswith("/google.rpc.ErrorInfo"):
                    reason = value.text(1)
                    metadata = {pair.text(1): pair.text(2) for pair in value.messages(3)}
                elif detail.text(1).endswith("/google.rpc.RetryInfo"):
                    delay = value.message(1)
                    retry_after = max(0.0, delay.integer(1) + delay.integer(2) / 1e9)
        except ValueError:
            pass  # the status itself is there all the same
        return cls(status.code, status.details, reason, metadata, retry_after)

    def kind(self, images: int) -> ErrorKind | None:
        """What it means for a request with so many images; None where the name says nothing."""
        said = self.message[:_READ]
        if self.reason.startswith("API_KEY_") or _OF_THE_KEY.search(said):
            return ErrorKind.CREDENTIALS
        if self.name in ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "") and _OF_THE_IMAGE.search(said):
            return ErrorKind.REJECTED if images == 1 else ErrorKind.PROTOCOL
        if self.name == "RESOURCE_EXHAUSTED" or self.reason in _QUOTA | _RATE:
            return ErrorKind.QUOTA if self._is_for_the_day else ErrorKind.THROTTLED
        return KINDS.get(self.name)

    @property
    def _is_for_the_day(self) -> bool:
        about = (self.metadata.get("quota_unit", ""), self.metadata.get("quota_limit", ""), self.message)
        return self.reason in _QUOTA or any(map(_DAILY.search, about))


def of_reply(status: int, raw: bytes, images: int, retry_after: str | None, *secrets: str) -> ProviderError:
    """A reply over HTTP that is no 200. What the service reported is certain; a gateway's 5xx says nothing of what it did."""
    failure = Failure.of_json(raw)
    kind = failure.kind(images) or NOT_THERE.get(failure.name) if failure else None
    if kind is None:
        kind = ErrorKind.PROTOCOL if status == 413 and images > 1 else kind_of_status(status)
    name = (failure.name if failure else "") or f"HTTP {status}"
    return ProviderError(
        kind,
        redact(f"{name}: {failure.message}" if failure and failure.message else name, *secrets),
        code=redact(name, *secrets),
        status=status,
        retry_after=failure.retry_after if failure and failure.retry_after is not None else seconds(retry_after),
        raw=redact_body(raw, *secrets),
        uncertain=status < 300 or name in MAYBE_DONE or (status >= 500 and failure is None),
    )


def of_status(status: Status, images: int, *secrets: str) -> ProviderError:
    """A gRPC call that ended without a message."""
    failure = Failure.of_status(status)
    return status.error(failure.kind(images), *secrets, retry_after=failure.retry_after)


def of_image(name: str, message: str, raw: bytes) -> ProviderError:
    """An error of one image, inside a success."""
    return ProviderError(
        Failure(name, message).kind(1) or ErrorKind.PROTOCOL,
        redact(f"{name}: {message}" if message else name),
        code=name,
        raw=redact_body(raw),
        uncertain=name in MAYBE_DONE,
    )


def refuse_retries(session: requests.Session) -> None:
    """Have google.auth ask for a token over this session once a call: of a reply that bids it come again it makes an error.

    It would ask three times, with seconds of sleep between, which no timeout bounds; whether to ask again the engine decides.
    """
    session.hooks["response"].append(_no_token)


def _no_token(response: requests.Response, *_: Any, **__: Any) -> None:
    from google.auth.transport import DEFAULT_RETRYABLE_STATUS_CODES
    from requests import HTTPError

    if response.status_code in DEFAULT_RETRYABLE_STATUS_CODES:
        raise HTTPError(f"the server of the tokens answers {response.status_code} {response.reason}")


def of_credentials(error: Exception, *secrets: str) -> ProviderError:
    """A token could not be had, so nothing was sent. Where it was only not reached, it may be later."""
    from google.auth.exceptions import TransportError

    later = isinstance(error, TransportError) or getattr(error, "retryable", False)
    kind = ErrorKind.TRANSIENT if later else ErrorKind.CREDENTIALS
    return ProviderError(kind, redact(f"{type(error).__name__}: {error}", *secrets), sent=False)


def _detail(details: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next((detail for detail in details if str(detail.get("@type")).endswith(f"/google.rpc.{name}")), {})


def _duration(delay: Any) -> float | None:
    """A Duration in JSON: "3.5s"."""
    return seconds(delay[:-1]) if isinstance(delay, str) and delay.endswith("s") else None
