"""What the adapters share: reading replies strictly, keeping secrets out of messages, and never sending a key astray.

Imports no SDK. A vendor's reply is outside text: every value is checked for its type before it becomes a label.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from apibench.query.contract import ErrorKind, ProviderError, ProviderOptions

Setting = str | int | float | bool
Settings = Mapping[str, Setting]

# Where the body's own code says nothing: a proxy's or a gateway's HTML page has none.
KINDS_BY_STATUS = {
    401: ErrorKind.CREDENTIALS,
    403: ErrorKind.CREDENTIALS,
    407: ErrorKind.CREDENTIALS,
    408: ErrorKind.TRANSIENT,
    413: ErrorKind.REJECTED,
    429: ErrorKind.THROTTLED,
}


def kind_of_status(status: int) -> ErrorKind:
    """What an HTTP status alone says."""
    return KINDS_BY_STATUS.get(status, ErrorKind.TRANSIENT if status >= 500 else ErrorKind.PROTOCOL)


# --- settings ---


def merged(options: ProviderOptions, defaults: Mapping[str, Setting], provider: str) -> dict[str, Any]:
    """The defaults, overridden. Raises ValueError naming a setting that there is not."""
    unknown = set(options.settings) - set(defaults)
    if unknown:
        raise ValueError(f"{sorted(unknown)[0]}: no setting of {provider}; there are {', '.join(defaults)}")
    return {**defaults, **options.settings}


def whole(name: str, value: object, low: int, high: int) -> int:
    """A whole number in a range. Raises ValueError naming the setting."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name}: {value!r} is not a whole number from {low} to {high}")
    return value


def real(name: str, value: object, low: float, high: float) -> float:
    """A number in a range. Raises ValueError naming the setting."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name}: {value!r} is not a number from {low:g} to {high:g}")
    return float(value)


def matching(name: str, value: object, pattern: str, example: str) -> str:
    """Text of a form. Raises ValueError naming the setting; ``example`` says what it should look like."""
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ValueError(f"{name}: {value!r} is not {example}")
    return value


# --- replies ---


def items(value: Any, name: str) -> list[Any]:
    """A list. Raises TypeError naming it."""
    if not isinstance(value, list):
        raise TypeError(f"{name} is not a list")
    return value


def text(value: Any, name: str) -> str:
    """Text that is not empty. Raises TypeError naming it, UnicodeError for half a surrogate pair."""
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name} is not a name")
    value.encode()  # half a surrogate pair is no text: no file and no database takes it
    return value


def score(value: Any, name: str, scale: float = 1.0) -> float:
    """A score on 0 to ``scale`` as one in [0, 1]. Raises TypeError or ValueError naming it.

    Vendors compute in float32, so either end may be a rounding error outside; that much is cut off. NaN is in no range.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} is not a number")
    if not -1e-5 * scale <= value <= 1.00001 * scale:
        raise ValueError(f"{name} is outside 0 to {scale:g}")
    return min(max(value / scale, 0.0), 1.0)


# What a parser of a reply may stumble over; anything else is a fault of ours.
UNREADABLE = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)


def unreadable(raw: bytes, error: Exception, *secrets: str) -> ProviderError:
    """A success that cannot be read. It may have been billed."""
    reason = redact(f"{type(error).__name__}: {error}", *secrets)[:100]
    return ProviderError(
        ErrorKind.PROTOCOL,
        f"a reply without readable labels ({reason})",
        status=200,
        raw=redact_body(raw, *secrets),
        uncertain=True,
    )


def seconds(after: str | None) -> float | None:
    """A Retry-After header in seconds. Dates, which none of the four vendors sends, are left out."""
    try:
        value = float(after) if after else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


# --- where keys may go ---


def is_loopback(endpoint: str | None) -> bool:
    """Whether a URL's host is this machine."""
    host = urlsplit(endpoint or "").hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_endpoint(endpoint: str | None, *, emulated: bool) -> None:
    """Raises ProviderError where an emulated call would leave this machine, or a real key would go over plain http."""
    if emulated:
        if not is_loopback(endpoint):
            message = "emulated calls go to an emulator on this machine, never elsewhere"
            raise ProviderError(ErrorKind.CREDENTIALS, message)
        return
    if endpoint is None:
        return
    try:
        parts = urlsplit(endpoint)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        valid = False
    if not valid:
        raise ProviderError(ErrorKind.CREDENTIALS, f"{redact(endpoint)}: not an endpoint like https://host")
    if parts.scheme != "https":
        message = f"{parts.hostname}: real keys are not sent over plain http; use an https endpoint, or --emulated"
        raise ProviderError(ErrorKind.CREDENTIALS, message)


def check_key(name: str, key: str) -> str:
    """A key that can be sent in a header: no spaces or line ends around it, ASCII. Raises ProviderError naming the variable."""
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ProviderError(ErrorKind.CREDENTIALS, f"{name}: holds something that is no key (it is not printed here)")
    return key


# --- secrets ---

_SECRETS = re.compile(
    r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{8,}\b"  # AWS key ids
    r"|\bAIza[0-9A-Za-z_-]{20,}|\bya29\.[0-9A-Za-z._-]+"  # Google API keys and access tokens
    r"|\b[0-9a-fA-F]{32,}\b"  # Azure's keys, Clarifai's personal access tokens
    r"|(?i:(?:credential|signature|security-token|authorization|secret\w*|token|(?:api|subscription)[-_]?key)\s*[=:]\s*)"
    r"(?:(?i:bearer|key|basic)\s+)?[^\s,;&]+"
    r"|\b(?i:bearer|key)\s+[0-9A-Za-z._~+/-]{16,}"
    r"|(?<=://)[^/@\s]+(?=@)"  # user and password of a proxy's or an endpoint's address
    r"|[A-Za-z0-9/+=]{40,}"  # secrets, session tokens, signatures, and image bytes
)
_REMOVED = "[removed]"


def redact(message: str, *secrets: str) -> str:
    """A message without ``secrets``, nor anything that looks like a key, a signature or encoded bytes; one line, at most 300."""
    clean = "".join(c if c.isprintable() else " " for c in _without(message, secrets))
    return " ".join(clean.split())[:300]


def redact_body(raw: bytes, *secrets: str) -> bytes:
    """An error's body as received, unless it repeats a key (AWS answers a wrong signature with the headers it signed)."""
    body = raw.decode("utf-8", "replace").replace("\\/", "/")
    clean = _without(body, secrets)
    return clean.encode() if clean != body else raw


def _without(message: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        if secret:
            message = message.replace(secret, _REMOVED)
    return _SECRETS.sub(_REMOVED, message)
