"""Azure Computer Vision's wire: ``POST /vision/v3.2/tag`` with the image as the body, and the refusals of the service.

Sources: the REST reference of "Tag Image" and the models of the SDK ``azure-cognitiveservices-vision-computervision`` for shapes
and error codes; the page "Call the Image Analysis API" for the meaning of the codes; the overview of Image Analysis for limits
(a file of less than 4 MB, more than 50 x 50 and less than 16,000 x 16,000 pixels, JPEG, PNG, GIF or BMP); messages as users of
the service have reported them in public. Not verified against the live service: which of several errors it reports first, the
text of most messages, the code for an unknown model version, and its tags' names, which are ImageNet's here, in lower case and
in English whatever the language. Pillow refuses images of more than 179 million pixels, the service (it says) does not. Not
emulated, and refused: images by URL or as a form, and every other operation (404). A key in the query is not looked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl

from PIL import Image

from apibench.emulator.answerer import Answerer, ImageRefusedError, Limits, Refusal
from apibench.emulator.faults import FaultKind
from apibench.emulator.terms import terms
from apibench.emulator.wire import Reply, Request
from apibench.query.contract import WireKind

OPERATION = "Tag"
PATH = "/vision/v3.2/tag"
KEY_HEADER = "ocp-apim-subscription-key"
LIMITS = Limits(formats=("JPEG", "PNG", "GIF", "BMP"), min_side=51, max_side=15_999)
TOO_MANY_BYTES = 4 * 1024 * 1024
LEAST = 0.01  # tags below it are not reported; the service's own threshold is not known
LANGUAGES = ("en", "es", "ja", "pt", "zh")
VERSIONS = ("latest", "2021-04-01", "2021-05-01")

_FORMATS = {"JPEG": "Jpeg", "MPO": "Jpeg", "PNG": "Png", "GIF": "Gif", "BMP": "Bmp"}

_THROTTLED = (
    429,
    "429",
    "Requests to the Tag Image Operation under Computer Vision API (v3.2) have exceeded call rate limit of your current "
    "ComputerVision pricing tier. Please retry after 1 second.",
)
_FAILURES = {
    FaultKind.THROTTLE: _THROTTLED,
    FaultKind.PROVISIONED: _THROTTLED,
    FaultKind.TOO_MANY: _THROTTLED,
    FaultKind.INTERNAL: (500, "InternalServerError", "Internal server error."),
    FaultKind.UNAVAILABLE: (503, "ServiceUnavailable", "The service is unavailable."),
}


class _RefusedError(Exception):
    """An error reply in the making: its status and codes on the wire, and its message."""

    def __init__(self, status: int, code: str, message: str, inner: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.inner = inner


class ComputerVisionWire:
    """``accepted_keys``: the keys that are known; None takes any."""

    provider = "azure"
    kind = WireKind.HTTP

    def __init__(self, accepted_keys: Collection[str] | None = None) -> None:
        self._accepted = None if accepted_keys is None else frozenset(accepted_keys)

    def claims(self, request: Request) -> bool:
        return _path(request).startswith("/vision/") or KEY_HEADER in request.headers

    def answer(self, request: Request, answerer: Answerer) -> Reply:
        try:
            if (request.method, _path(request)) != ("POST", PATH):
                raise _RefusedError(404, "404", "Resource not found")
            self._authenticate(request)
            _check_query(request)
            _check_body(request)
            body = _answer(request.body, answerer)
        except _RefusedError as refused:
            return _error(request, refused)
        content = body | {"requestId": request.id, "modelVersion": f"emulated/{answerer.name}"}
        digest = hashlib.sha256(request.body).hexdigest()
        return Reply(200, json.dumps(content).encode(), _headers(request), operation=OPERATION, billed=(digest,))

    def failure(self, request: Request, kind: FaultKind) -> Reply:
        status, code, message = _FAILURES[kind]
        extra = (("Retry-After", "1"),) if status == 429 else ()
        return _error(request, _RefusedError(status, code, message), extra)

    def _authenticate(self, request: Request) -> None:
        """Whether there is a key, and a known one. Nothing of it is repeated in a reply."""
        key = request.headers.get(KEY_HEADER, "")
        if not key or (self._accepted is not None and key not in self._accepted):
            raise _RefusedError(
                401,
                "401",
                "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key "
                "for an active subscription and use a correct regional API endpoint for your resource.",
            )


def wires(accepted_keys: Collection[str] | None) -> tuple[ComputerVisionWire, ...]:
    """What :mod:`apibench.emulator.vendors` asks every vendor's module for."""
    return (ComputerVisionWire(accepted_keys),)


def _path(request: Request) -> str:
    return request.path.partition("?")[0]


def _check_query(request: Request) -> None:
    """``language`` and ``model-version``; what is not known is ignored."""
    query = dict(parse_qsl(request.path.partition("?")[2], keep_blank_values=True))
    if (language := query.get("language", "en")) not in LANGUAGES:
        raise _invalid("NotSupportedLanguage", f"Specified language {language!r} is not supported.")
    if (version := query.get("model-version", "latest")) not in VERSIONS:
        raise _invalid("InvalidModel", f"Specified model version {version!r} is not supported.")


def _check_body(request: Request) -> None:
    """The form and the size of what was sent, before anything looks at it."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/octet-stream":
        message = "Unsupported media type: the Content-Type must be application/octet-stream."
        raise _RefusedError(415, "InvalidRequest", message, "UnsupportedMediaType")
    if not request.body:
        raise _invalid("InvalidImageFormat", "Input data is not a valid image.")
    if len(request.body) >= TOO_MANY_BYTES:
        raise _invalid("InvalidImageSize", "Input image is too large.")


def _answer(data: bytes, answerer: Answerer) -> dict[str, Any]:
    """``tags``, highest confidence first, and ``metadata``, as the file's header has it."""
    try:
        probabilities = answerer.probabilities(data, LIMITS)
    except ImageRefusedError as refused:
        raise _image_refused(refused) from refused
    with Image.open(BytesIO(data), formats=LIMITS.formats) as image:
        metadata = {"width": image.width, "height": image.height, "format": _FORMATS[image.format or ""]}
    tags = [{"name": term.name.lower(), "confidence": term.score} for term in terms(probabilities, LEAST)]
    return {"tags": tags, "metadata": metadata}


def _image_refused(refused: ImageRefusedError) -> _RefusedError:
    if refused.reason is Refusal.FORMAT:
        return _invalid("InvalidImageFormat", "Input data is not a valid image.")
    if refused.reason is Refusal.TOO_SMALL:
        return _invalid("InvalidImageSize", "Image must be at least 50 pixels in width and height.")
    return _invalid("InvalidImageSize", "Input image is too large.")


def _invalid(inner: str, message: str) -> _RefusedError:
    return _RefusedError(400, "InvalidRequest", message, inner)


def _headers(request: Request) -> tuple[tuple[str, str], ...]:
    return (("Content-Type", "application/json; charset=utf-8"), ("apim-request-id", request.id))


def _error(request: Request, refused: _RefusedError, extra: tuple[tuple[str, str], ...] = ()) -> Reply:
    error: dict[str, Any] = {"code": refused.code, "message": refused.message}
    if refused.inner is not None:
        error["innererror"] = {"code": refused.inner, "message": refused.message}
    headers = (*_headers(request), *extra)
    return Reply(refused.status, json.dumps({"error": error}).encode(), headers, outcome=refused.inner or refused.code)
