"""Google Cloud Vision's wires: ``images:annotate`` in JSON over HTTP, and BatchAnnotateImages over gRPC, with label detection.

Sources: the service's messages, as google-cloud-vision has them, for shapes and defaults; the pages "Supported images",
"Best practices" (75 million pixels) and "Quotas and limits" (20 MB a file, 10 MB a JSON request, 16 images a request); the
page "Errors" of the API design guide and google/api/error_reason.proto for the form of errors; messages as users of this and
of Google's other APIs have reported them in public (an image too large: openfoodfacts/openfoodfacts-server#10764). Nothing
here is verified against the live service; neither are the order of its checks and the default of 10 results.

Made up, since a network of ImageNet's classes knows nothing better: ``mid`` is ``/m/`` and a WordNet id, ``topicality`` equals
``score``, and ``context.uri`` (an address, for the real service) says which network answered. Not emulated, and refused: any
feature but LABEL_DETECTION, images by address, files, asynchronous calls. Of access tokens only their presence is checked, or
that they are among the accepted keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from google.cloud.vision_v1.types import image_annotator
from google.protobuf import any_pb2, json_format
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from apibench.emulator.answerer import Answerer, ImageRefusedError, Limits, Refusal
from apibench.emulator.faults import FaultKind
from apibench.emulator.terms import Term, terms
from apibench.emulator.wire import ANSWERED, Reply, Request, RpcError
from apibench.query.contract import WireKind

OPERATION = "BatchAnnotateImages"
SERVICE = "/google.cloud.vision.v1.ImageAnnotator/"
HOST = "vision.googleapis.com"
MAX_IMAGES = 16
MAX_FILE = 20 * 1024 * 1024
MAX_JSON = 10 * 1024 * 1024
MAX_PIXELS = 75_000_000
DEFAULT_RESULTS = 10
MODELS = ("", "builtin/stable", "builtin/latest")
LIMITS = Limits(
    formats=("JPEG", "PNG", "GIF", "BMP", "WEBP", "ICO", "TIFF"),
    min_side=1,
    max_side=MAX_PIXELS,
    max_pixels=MAX_PIXELS,
)

# A status' name: its number, and the HTTP status it comes with (google/rpc/code.proto).
_CODES = {
    "INVALID_ARGUMENT": (3, 400),
    "NOT_FOUND": (5, 404),
    "PERMISSION_DENIED": (7, 403),
    "RESOURCE_EXHAUSTED": (8, 429),
    "UNIMPLEMENTED": (12, 501),
    "INTERNAL": (13, 500),
    "UNAVAILABLE": (14, 503),
    "UNAUTHENTICATED": (16, 401),
}


class _RefusedError(Exception):
    """A status in the making: its name, its message, and an ErrorInfo's reason and metadata where the service gives one.

    ``wait``: seconds, of a RetryInfo and a Retry-After header.
    """

    def __init__(
        self,
        code: str,
        message: str,
        reason: str = "",
        metadata: dict[str, str] | None = None,
        wait: int = 0,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.wait = wait
        details = []
        if reason:
            about = {"service": HOST} | (metadata or {})
            details.append(error_details_pb2.ErrorInfo(reason=reason, domain="googleapis.com", metadata=about))
        if wait:
            details.append(error_details_pb2.RetryInfo(retry_delay={"seconds": wait}))
        self.status = status_pb2.Status(code=_CODES[code][0], message=message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            self.status.details.append(packed)


def _exhausted(metric: str, unit: str, wait: int = 0) -> _RefusedError:
    """As the APIs' quotas are said to be exceeded; consumer and values are made up."""
    message = (
        f"Quota exceeded for quota metric '{metric}' and limit '{metric} per minute' of service '{HOST}' for consumer "
        "'project_number:0'."
    )
    metadata = {
        "consumer": "projects/0",
        "quota_limit": f"{unit}PerMinutePerProject",
        "quota_limit_value": "1800",
        "quota_metric": f"{HOST}/{metric.lower().replace(' ', '_')}",
        "quota_unit": "1/min/{project}",
    }
    return _RefusedError("RESOURCE_EXHAUSTED", message, "RATE_LIMIT_EXCEEDED", metadata, wait)


_FAILURES = {
    FaultKind.THROTTLE: _exhausted("Requests", "Requests"),
    FaultKind.PROVISIONED: _exhausted("Label detection requests", "LabelDetectionRequests"),
    FaultKind.TOO_MANY: _exhausted("Requests", "Requests", wait=1),
    FaultKind.INTERNAL: _RefusedError("INTERNAL", "Internal error encountered."),
    FaultKind.UNAVAILABLE: _RefusedError("UNAVAILABLE", "The service is currently unavailable."),
    FaultKind.EXPIRED: _RefusedError(
        "INVALID_ARGUMENT", "API key expired. Please renew the API key.", "API_KEY_INVALID"
    ),
}


@dataclass(frozen=True)
class _Answered:
    """A response, and the SHA-256 of each image that labels were computed for, as often as it had features."""

    response: Any
    billed: tuple[str, ...]

    @property
    def outcome(self) -> str:
        # Where no image was looked at, the first one's error says why.
        return ANSWERED if self.billed or not self.response.responses else _name(self.response.responses[0].error.code)


class _Vision:
    """What both wires share. ``accepted_keys``: API keys and access tokens that are known; None takes any."""

    provider = "google"
    title = "Google Cloud Vision"

    def __init__(self, accepted_keys: Collection[str] | None = None) -> None:
        self._accepted = None if accepted_keys is None else frozenset(accepted_keys)

    def _authenticate(self, request: Request, in_query: str = "") -> None:
        """Nothing of a key is repeated in a reply."""
        key = request.headers.get("x-goog-api-key", "") or in_query
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not key and (scheme.lower() != "bearer" or not token):
            raise _RefusedError(
                "PERMISSION_DENIED",
                "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or "
                "other form of API consumer identity to call this API.",
            )
        if self._accepted is None or (key or token) in self._accepted:
            return
        if key:
            message = "API key not valid. Please pass a valid API key."
            raise _RefusedError("INVALID_ARGUMENT", message, "API_KEY_INVALID")
        raise _RefusedError(
            "UNAUTHENTICATED",
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
            "authentication credential.",
            "ACCESS_TOKEN_TYPE_UNSUPPORTED",
        )


class RestWire(_Vision):
    call = "POST /v1/images:annotate"
    kind = WireKind.HTTP

    def claims(self, request: Request) -> bool:
        return request.path.startswith(("/v1/images:", "/v1/files:", "/v1/projects/", "/v1/operations/"))

    def answer(self, request: Request, answerer: Answerer) -> Reply:
        url = urlsplit(request.path)
        try:
            if request.method != "POST" or not url.path.startswith("/v1/") or not _is_annotate(url.path):
                raise _RefusedError("NOT_FOUND", "Method not found, or not emulated.")
            self._authenticate(request, parse_qs(url.query).get("key", [""])[0])
            if len(request.body) > MAX_JSON:
                raise _RefusedError("INVALID_ARGUMENT", f"Request payload size exceeds the limit: {MAX_JSON} bytes.")
            answered = _annotate(_of_json(request.body), answerer)
        except _RefusedError as refused:
            return _http_error(refused)
        body = json_format.MessageToJson(answered.response, indent=2).encode()
        return Reply(200, body, _JSON_HEADERS, outcome=answered.outcome, operation=OPERATION, billed=answered.billed)

    def failure(self, request: Request, kind: FaultKind) -> Reply:  # noqa: ARG002 - the same for all
        return _http_error(_FAILURES[kind])


class GrpcWire(_Vision):
    call = SERVICE + OPERATION
    kind = WireKind.GRPC

    def claims(self, request: Request) -> bool:
        return request.path.startswith(SERVICE)

    def answer(self, request: Request, answerer: Answerer) -> Reply:
        try:
            if request.path != SERVICE + OPERATION:
                raise _RefusedError("UNIMPLEMENTED", "The method is not emulated.")
            self._authenticate(request)
            answered = _annotate(_of_message(request.body), answerer)
        except _RefusedError as refused:
            return _rpc_error(refused)
        body = answered.response.SerializeToString()
        return Reply(200, body, outcome=answered.outcome, operation=OPERATION, billed=answered.billed)

    def failure(self, request: Request, kind: FaultKind) -> Reply:  # noqa: ARG002 - the same for all
        return _rpc_error(_FAILURES[kind])


def wires(accepted_keys: Collection[str] | None) -> tuple[RestWire, GrpcWire]:
    """What :mod:`apibench.emulator.vendors` asks every vendor's module for."""
    return RestWire(accepted_keys), GrpcWire(accepted_keys)


# --- requests ---


def _is_annotate(path: str) -> bool:
    """``/v1/images:annotate``, or the same of a project or of a project's location."""
    *parents, last = path.removeprefix("/v1/").split("/")
    return last == "images:annotate" and parents[::2] in ([], ["projects"], ["projects", "locations"])


def _of_json(body: bytes) -> Any:
    request = image_annotator.BatchAnnotateImagesRequest.pb(image_annotator.BatchAnnotateImagesRequest())
    try:
        if body.lstrip()[:1] != b"{":
            raise ValueError("no object")  # an empty list would pass for one
        return json_format.Parse(body, request)
    except (json_format.ParseError, ValueError, RecursionError) as error:
        raise _RefusedError("INVALID_ARGUMENT", "Invalid JSON payload received.") from error


def _of_message(body: bytes) -> Any:
    request = image_annotator.BatchAnnotateImagesRequest.pb(image_annotator.BatchAnnotateImagesRequest())
    try:
        request.ParseFromString(body)
    except DecodeError as error:
        raise _RefusedError("INVALID_ARGUMENT", "Request is not a message of this method.") from error
    return request


# --- answers ---


def _annotate(request: Any, answerer: Answerer) -> _Answered:
    """The shared answer: a response an image, with labels or an error of its own."""
    if len(request.requests) > MAX_IMAGES:
        raise _RefusedError("INVALID_ARGUMENT", "Too many images per request.")
    response = image_annotator.BatchAnnotateImagesResponse.pb(image_annotator.BatchAnnotateImagesResponse())
    billed = []
    for asked in request.requests:
        entry = response.responses.add()
        try:
            found = _labels(asked, answerer)
        except _RefusedError as refused:
            entry.error.CopyFrom(refused.status)
            continue
        # "Each feature applied to an image is a billable unit"; whether one that is asked for twice is two is not known.
        billed += [hashlib.sha256(asked.image.content).hexdigest()] * len(asked.features)
        entry.context.uri = f"emulated/{answerer.name}"
        for term in found:
            entry.label_annotations.add(
                mid=f"/m/{term.synset}", description=sentence(term.name), score=term.score, topicality=term.score
            )
    return _Answered(response, tuple(billed))


def _labels(asked: Any, answerer: Answerer) -> list[Term]:
    results = _results(asked)
    if len(asked.image.content) > MAX_FILE:
        raise _RefusedError("INVALID_ARGUMENT", f"Image size too large. Please limit to {MAX_FILE} bytes.")
    try:
        return terms(answerer.probabilities(asked.image.content, LIMITS))[:results]
    except ImageRefusedError as refused:
        if refused.reason is Refusal.FAILED:
            raise _FAILURES[FaultKind.INTERNAL] from refused
        if refused.reason is Refusal.TOO_LARGE:
            message = f"Image too large. Please limit to {MAX_PIXELS // 1_000_000} megapixels."
        else:
            message = "Bad image data."
        raise _RefusedError("INVALID_ARGUMENT", message) from refused


def _results(asked: Any) -> int:
    """How many labels one image's request wants."""
    if not asked.features or not (asked.image.content or asked.image.HasField("source")):
        raise _RefusedError("INVALID_ARGUMENT", "Request must specify image and features.")
    if not asked.image.content:
        raise _RefusedError("UNIMPLEMENTED", "Images by address are not emulated.")
    for feature in asked.features:
        if feature.type_ != image_annotator.Feature.Type.LABEL_DETECTION:
            raise _RefusedError("UNIMPLEMENTED", "Features other than LABEL_DETECTION are not emulated.")
        if feature.model not in MODELS or feature.max_results < 0:
            raise _RefusedError("INVALID_ARGUMENT", "Feature has an unknown model, or fewer than no results.")
    return max(feature.max_results or DEFAULT_RESULTS for feature in asked.features)


def sentence(name: str) -> str:
    """A name in sentence case, as the service writes: "Golden Retriever" -> "Golden retriever"; "CD Player" keeps its CD."""
    first, *rest = name.split(" ")
    return " ".join([first, *(word if word.isupper() and len(word) > 1 else word.lower() for word in rest)])


# --- replies ---

_JSON_HEADERS = (("Content-Type", "application/json; charset=UTF-8"),)


def _name(number: int) -> str:
    return next((name for name, (code, _) in _CODES.items() if code == number), "UNKNOWN")


def _http_error(refused: _RefusedError) -> Reply:
    status = _CODES[refused.code][1]
    error = {"code": status, "message": refused.message, "status": refused.code}
    details = json_format.MessageToDict(refused.status).get("details")
    if details:
        error["details"] = details
    extra = (("Retry-After", str(refused.wait)),) if refused.wait else ()
    body = json.dumps({"error": error}, indent=2).encode()
    return Reply(status, body, (*_JSON_HEADERS, *extra), outcome=refused.code)


def _rpc_error(refused: _RefusedError) -> Reply:
    rpc = RpcError(refused.code, refused.message, refused.status.SerializeToString())
    return Reply(200, b"", outcome=refused.code, operation=OPERATION, rpc=rpc)
