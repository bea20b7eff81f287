"""What the adapters share: reading replies strictly, keeping secrets out of messages, and never sending a key astray.

Imports no SDK. A vendor's reply is outside text: every value is checked for its type before it becomes a label.
"""

from __future__ import annotations

import ipaddress
import math
import re
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from apibench.query.contract import ErrorKind, Exchange, ProviderError, ProviderOptions, WireKind
from apibench.query.redact import MOST_KEPT, redact, redact_body
from apibench_adapters.deadline import has_left

__all__ = ["MOST_KEPT", "redact", "redact_body"]  # the contract's half on secrets, from where the adapters look for it

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

_DAY = 86_400  # seconds. Sockets and gRPC take no more than some years, and fail at once, in words that say something was lost.


def merged(options: ProviderOptions, defaults: Mapping[str, Setting], provider: str) -> dict[str, Any]:
    """The defaults, overridden. Raises ValueError naming a setting that there is not, or a timeout of more than a day."""
    real("timeout", options.timeout, 0, _DAY)
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
    """Text of a form (a number is text here). Raises ValueError naming the setting; ``example`` says what it should look like."""
    value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
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


# The headers of a reply that some adapter, or some SDK below it, makes something of. None of them holds a secret.
HEADERS = ("content-type", "retry-after", "x-amzn-requestid", "x-amzn-errortype", "apim-request-id")


class Call(threading.local):
    """What came over HTTP for the call that this thread makes: nothing yet, or a status, headers and a body.

    ``raw`` is None as long as the body is not there whole.
    """

    status: int = 0
    raw: bytes | None = None
    request_id: str | None = None
    retry_after: str | None = None

    def forget(self) -> None:
        """Before the next call: what is left of the last one must not be taken for it."""
        self.__dict__.clear()

    def exchange(self, method: str, headers: Mapping[str, str]) -> Exchange:
        """What came, for whoever records it; of the headers, those that an adapter reads."""
        found = {name.lower(): value for name, value in headers.items()}
        kept = {name: found[name] for name in HEADERS if name in found}
        return Exchange(WireKind.HTTP, method, self.status, kept, self.raw or b"")


def never_sent(error: BaseException) -> bool:
    """Whether nothing was sent: the connection knows; else an error of requests says it.

    Refused, unresolved, never connected, or not whom we trust.
    """
    if (left := has_left()) is not None:
        return not left
    from requests import exceptions as of_requests
    from urllib3.exceptions import NewConnectionError

    if isinstance(error, of_requests.ConnectTimeout | of_requests.ProxyError):
        return True
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, NewConnectionError) or "CERTIFICATE_VERIFY_FAILED" in str(error)


# --- where keys may go ---


def is_loopback(endpoint: str | None) -> bool:
    """Whether a URL's host is this machine. Only of a URL that ``check_endpoint`` lets pass it is the host that all see."""
    try:
        host = urlsplit(endpoint or "").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# Only what every reader of URLs takes for the same host: no user, no backslash, no query; no braces, which an SDK may fill in.
_PLAIN = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?:/[A-Za-z0-9._~/-]*)?")


def check_endpoint(endpoint: str | None, *, emulated: bool) -> None:
    """Raises ProviderError where an emulated call would leave this machine, a real key would go over plain http, or it is no URL.

    None, the SDK's own choice, is fine for a real key, and for no emulated call.
    """
    if endpoint is not None:
        found = _PLAIN.fullmatch(endpoint)
        if found is None or not 0 < int(found["port"] or 443) < 65536:
            message = (
                f"{redact(endpoint) or 'an empty endpoint'}: not an endpoint like https://host or https://host:port"
            )
            raise ProviderError(ErrorKind.CREDENTIALS, message)
    if emulated:
        if not is_loopback(endpoint):
            message = "emulated calls go to an emulator on this machine, never elsewhere"
            raise ProviderError(ErrorKind.CREDENTIALS, message)
    elif endpoint is not None and not endpoint.startswith("https:"):
        host = urlsplit(endpoint).hostname
        message = f"{host}: real keys are not sent over plain http; use an https endpoint, or --emulated"
        raise ProviderError(ErrorKind.CREDENTIALS, message)


def check_key(name: str, key: str) -> str:
    """A key that can be sent in a header: no spaces or line ends around it, ASCII. Raises ProviderError naming the variable."""
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ProviderError(ErrorKind.CREDENTIALS, f"{name} holds something that is no key (it is not printed here)")
    return key
