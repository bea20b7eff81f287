"""Azure Computer Vision 3.2: the operation "Tag Image" through ``azure-cognitiveservices-vision-computervision``.

https://learn.microsoft.com/en-us/rest/api/computervision/tag-image. Errors are those of the page "Call the Image Analysis API"
(section "Error codes") and of the SDK's enumerations. The resource's address and key are those that Microsoft's own samples
read: VISION_ENDPOINT and VISION_KEY. Nothing is retried and no redirect is followed: msrest would repeat image and key to
whatever host a redirect names.

The SDK stumbles over bodies that it does not expect (an empty 413 is a TypeError, an empty 200 is None), so a reply is judged
by the status and the bytes that came over the wire, which a response hook of msrest keeps.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from io import BytesIO
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
from apibench_adapters.common import (
    UNREADABLE,
    Call,
    Settings,
    check_endpoint,
    check_key,
    items,
    kind_of_status,
    matching,
    merged,
    never_sent,
    redact,
    redact_body,
    score,
    seconds,
    text,
    unreadable,
)
from apibench_adapters.deadline import bound_session, within

if TYPE_CHECKING:
    import requests

INFO = ProviderInfo(
    name="azure",
    title="Azure Computer Vision",
    hosts=(
        # A resource's own host, and the regional ones; in the public cloud, the US government's and China's.
        r"[a-z0-9][a-z0-9-]*\.cognitiveservices\.azure\.(com|us|cn)",
        r"[a-z0-9]+\.api\.cognitive\.(microsoft\.com|microsoft\.us|azure\.cn)",
    ),
    rate_per_second=20.0,  # S1: "up to 20 TPS" (FAQ); the free tier allows 20 a minute, so give --rate 0.3 there
    # https://learn.microsoft.com/azure/ai-services/computer-vision/overview-image-analysis, "Image requirements": less than 4 MB,
    # more than 50 x 50 and less than 16,000 x 16,000 pixels. A MB is taken for the larger of its two meanings.
    limits=ImageLimits(max_bytes=4 * 1024 * 1024 - 1, min_side=51, max_side=15_999),
    taps=True,
)
OPERATION = "/vision/v3.2/tag"

DEFAULTS = {"language": "en", "model-version": "latest"}
LANGUAGES = ("en", "es", "ja", "pt", "zh")  # as in the SDK's docstring of tag_image_in_stream

ENDPOINT, KEY = "VISION_ENDPOINT", "VISION_KEY"
# What is sent does not depend on the machine (msrest's User-Agent does), and the body comes as it will be stored.
_HEADERS = {"User-Agent": "apibench", "Accept-Encoding": "identity"}
_BLOCK = 1 << 20  # bytes read at a time when sending; msrest's 4 KiB make a hundred packets of an image

# By the error's innermost code. Everything else, a setting that the service does not know for one, is for the status to say.
_KINDS = {
    ErrorKind.REJECTED: {"InvalidImageFormat", "InvalidImageSize", "InvalidImageDimension", "NotSupportedImage"},
    ErrorKind.TRANSIENT: {
        "FailedToProcess",
        "Timeout",
        "InternalServerError",
        "ServiceUnavailable",
        "StorageException",
        "CancelledRequest",
    },
}
# Codes that do not say what was wrong: their message has to.
_VAGUE = {"", "400", "BadRequest", "InvalidRequest", "InvalidArgument", "BadArgument"}
_ABOUT_THE_IMAGE = re.compile(
    r"\bimage (?:file )?(?:size|format|dimensions?|data)\b|\bvalid image(?:[.,;]|$)|\bimage is too\b|\bpixels\b", re.I
)
_OUT_OF_QUOTA = re.compile(r"out of (?:call volume )?quota", re.I)
_RETRY_AFTER = re.compile(r"(?:retry after|try again in) ([0-9]{1,6}) second", re.I)
_HINTS = {401: f"; check {KEY} and {ENDPOINT}", 404: f"; check {ENDPOINT}"}


class AzureAdapter:
    """What the entry point ``azure`` names."""

    info = INFO

    def settings(self, options: ProviderOptions) -> Settings:
        chosen = merged(options, DEFAULTS, INFO.name)
        version = r"(?:latest|[0-9]{4}-[0-9]{2}-[0-9]{2})(?:-preview)?"  # the SDK's own pattern
        return {
            "language": matching("language", chosen["language"], "|".join(LANGUAGES), f"one of {', '.join(LANGUAGES)}"),
            "model-version": matching("model-version", chosen["model-version"], version, '"latest" or like 2021-04-01'),
        }

    def endpoint(self, options: ProviderOptions) -> str | None:
        if options.endpoint or options.emulated:
            return options.endpoint
        return os.environ.get(ENDPOINT, "").strip() or None

    def wire(self, options: ProviderOptions) -> WireKind:  # noqa: ARG002 - others have a choice
        return WireKind.HTTP

    def create(self, options: ProviderOptions) -> AzureProvider:
        return AzureProvider(options, self.settings(options))

    def parse(self, raw: bytes) -> Parsed:
        return parse(raw)


adapter = AzureAdapter()


def parse(raw: bytes, *secrets: str) -> Parsed:
    """Read the body of a 200: ``{"tags": [{"name": ..., "confidence": 0 to 1}], "modelVersion": ...}``."""
    try:
        body = json.loads(raw)
        version = body.get("modelVersion")
        return Parsed(
            tuple(
                Label(text(tag["name"], "name"), score(tag["confidence"], "confidence"))
                for tag in items(body["tags"], "tags")
            ),
            None if version is None else text(version, "modelVersion"),
        )
    except UNREADABLE as error:
        raise unreadable(raw, error, *secrets) from None


def _access(options: ProviderOptions) -> tuple[str, str]:
    """Endpoint and key. Raises ProviderError (CREDENTIALS) where there is none, or one that must not be used."""
    endpoint = adapter.endpoint(options)
    key = "EMULATED" if options.emulated else check_key(KEY, os.environ.get(KEY, ""))
    if not options.emulated and not (endpoint and key):
        missing = " and ".join(name for name, value in ((ENDPOINT, endpoint), (KEY, key)) if not value)
        message = f"no Azure credentials found; set {missing} (in the portal: the resource's Keys and Endpoint)"
        raise ProviderError(ErrorKind.CREDENTIALS, message)
    check_endpoint(endpoint, emulated=options.emulated)
    assert endpoint is not None
    return endpoint, key


class AzureProvider:
    """The SDK's client. msrest opens a session, and with it a connection, for each thread that calls."""

    def __init__(self, options: ProviderOptions, settings: Settings) -> None:
        self.info = INFO
        self.settings = settings
        self._call = Call()
        self._tap = options.tap
        self._timeout = options.timeout
        self._sessions: set[requests.Session] = set()
        endpoint, self._key = _access(options)
        self._client = self._connect(endpoint, options)

    def _connect(self, endpoint: str, options: ProviderOptions) -> Any:
        from azure.cognitiveservices.vision.computervision import ComputerVisionClient
        from msrest.authentication import CognitiveServicesCredentials

        sdk: Any = ComputerVisionClient  # it has no types, and msrest's fit the defaults only
        client = sdk(endpoint, CognitiveServicesCredentials(self._key))
        config = client.config
        config.retry_policy.retries = 0
        config.retry_policy.policy.status_forcelist = ()  # else urllib3 1.x makes an error of a 5xx, and drops its body
        config.redirect_policy.allow = False
        config.connection.timeout = options.timeout
        config.connection.data_block_size = _BLOCK
        config.proxies.use_env_settings = not options.emulated
        config.session_configuration_callback = self._opened
        config.hooks.append(self._keep)
        return client

    @property
    def host(self) -> str:
        return urlsplit(self._client.config.endpoint).hostname or ""

    def label(self, images: Sequence[EncodedImage]) -> list[Outcome]:
        return [self._one(image) for image in images]

    def _one(self, image: EncodedImage) -> Outcome:
        self._call.forget()
        failure: Exception | None = None
        try:
            with within(self._timeout):
                self._client.tag_image_in_stream(
                    BytesIO(image.data),
                    language=self.settings["language"],
                    model_version=self.settings["model-version"],
                    custom_headers=_HEADERS,
                )
        except Exception as error:  # noqa: BLE001 - on a strange body it raises what it likes, a bare TypeError for one
            failure = error
        call = self._call
        if call.status == 0:
            return _from_sdk(failure or RuntimeError("no reply"), self._key)
        if call.status != 200:
            return _from_reply(call, self._key)
        if call.raw is None:
            reason = redact(f"the reply broke off ({_cause(failure)})", self._key)
            return ProviderError(ErrorKind.PROTOCOL, reason, status=200, uncertain=True)
        try:
            # Whatever the SDK made of it: a body that can be read is an answer.
            return Answer(call.raw, parse(call.raw, self._key), call.request_id or _request_id(call.raw))
        except ProviderError as error:
            return error

    def close(self) -> None:
        """Close the connections of all threads: msrest's own close reaches only those of the thread that calls it."""
        for session in tuple(self._sessions):
            _close(session)

    def _opened(self, session: requests.Session, *_: Any, **__: Any) -> None:
        # Without one of its own, requests looks into the user's .netrc and sends the password that it finds there.
        session.auth = _as_it_is
        if session not in self._sessions:  # msrest says so before every request
            self._sessions.add(session)
            bound_session(session)

    def _keep(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self._call.status = response.status_code
        self._call.request_id = response.headers.get("apim-request-id")
        self._call.retry_after = response.headers.get("retry-after")
        self._call.raw = response.content
        self._tap(self._call.exchange(OPERATION, response.headers))


def _close(session: requests.Session) -> None:
    """Close a session's connections now: requests leaves that to the garbage collector, and msrest ties replies in knots."""
    for adapter_ in session.adapters.values():
        for manager in (adapter_.poolmanager, *adapter_.proxy_manager.values()):  # type: ignore[attr-defined]
            for key in manager.pools.keys():  # noqa: SIM118 - it has no iterator, for the sake of threads
                manager.pools[key].close()
    session.close()


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _request_id(raw: bytes) -> str | None:
    """The body's own, of a body that has been read; None where it is missing or no text."""
    try:
        return text(json.loads(raw)["requestId"], "requestId")
    except UNREADABLE:
        return None


def _said(raw: bytes) -> tuple[str, str]:
    """Code and message of an error's body, each empty where there is none.

    The service says ``{"error": {"code", "message", "innererror": {"code", "message"}}}``, its gateway the same without the
    inner error and with the status as code, or ``{"statusCode", "message"}``. The innermost counts.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return "", ""
    code = message = ""
    part = body.get("error", body) if isinstance(body, dict) else None
    while isinstance(part, dict):
        found = part.get("code", part.get("statusCode"))
        code = str(found) if isinstance(found, str | int) else code
        found = part.get("message")
        message = found if isinstance(found, str) else message
        part = part.get("innererror")
    return code, message


def _kind(status: int, code: str, message: str) -> ErrorKind:
    """REJECTED only where it is about the image: whatever else is wrong would reject every image there is."""
    if _OUT_OF_QUOTA.search(message) and status in (403, 429):
        return ErrorKind.QUOTA
    if status == 404:  # "Resource not found": there is no such operation at this address
        return ErrorKind.CREDENTIALS
    if status in (401, 403, 407, 429):
        return kind_of_status(status)
    for kind, codes in _KINDS.items():
        if code in codes:
            return kind
    if status == 415 and (code or message):
        # Documented for a wrong Content-Type too, which would be our mistake.
        about_us = re.search(r"content.?type", message, re.I)
        return ErrorKind.PROTOCOL if about_us else ErrorKind.REJECTED
    if status == 400 and code in _VAGUE and _ABOUT_THE_IMAGE.search(message):
        return ErrorKind.REJECTED
    return kind_of_status(status)


def _from_reply(call: Call, key: str) -> ProviderError:
    """A reply that is no 200. What the service itself reported is certain; a gateway's 5xx says nothing of what is behind it."""
    raw, status = call.raw or b"", call.status
    code, message = _said(raw)
    after = _RETRY_AFTER.search(message)
    shown = code or "Unknown"
    return ProviderError(
        _kind(status, code, message),
        redact(f"{shown}: {message}" if message else f"{shown} (HTTP {status})", key) + _HINTS.get(status, ""),
        code=redact(shown, key),
        status=status,
        retry_after=seconds(call.retry_after or (after and after[1])),
        raw=redact_body(raw, key),
        # A time-out is the vendor's own word, and yet not whether the work was done.
        uncertain=status < 300 or code == "Timeout" or (status >= 500 and (not code or code.isdecimal())),
    )


def _cause(error: Exception | None) -> Exception | None:
    """What is behind msrest's own error: an error of requests, mostly."""
    return getattr(error, "inner_exception", None) or error


def _from_sdk(error: Exception, key: str) -> ProviderError:
    """No reply. Uncertain where the request may have reached the service."""
    from requests import RequestException

    cause = _cause(error) or error
    message = redact(f"{type(cause).__name__}: {cause}", key)
    if not isinstance(cause, RequestException | OSError):
        return ProviderError(ErrorKind.PROTOCOL, message, uncertain=True)
    sent = not never_sent(cause)
    return ProviderError(ErrorKind.TRANSIENT, message, uncertain=sent, sent=sent)
