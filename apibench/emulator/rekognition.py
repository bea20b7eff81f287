"""Amazon Rekognition's wire: ``DetectLabels`` in AWS JSON 1.1, with the refusals of the service.

Sources: the service model in botocore (``rekognition/2016-06-27/service-2``) for shapes, limits and exception names; the
developer guide's pages "Guidelines and quotas" (80 to 10,000 pixels a side, 5 MB of bytes, PNG and JPEG) and "Error handling"
(the error body); messages as users of the service have reported them in public. Not verified against the live service. Bytes
above the limit meet the service's request validation first (``ValidationException``, which the model does not list);
``ImageTooLargeException`` is for dimensions. Not emulated, and refused: ``Features`` other than GENERAL_LABELS, ``Settings``,
images in S3. Signatures must be well formed; they are verified for the keys whose secret is known
(:mod:`~apibench.emulator.sigv4`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from apibench.emulator import sigv4
from apibench.emulator.answerer import Answerer, ImageRefusedError, Limits, Probabilities, Refusal
from apibench.emulator.faults import FaultKind
from apibench.emulator.wire import Reply, Request
from apibench.labels import display_name, vocabulary
from apibench.query.contract import WireKind

OPERATION = "DetectLabels"
TARGET = f"RekognitionService.{OPERATION}"
CONTENT_TYPE = "application/x-amz-json-1.1"
LIMITS = Limits(formats=("PNG", "JPEG"), min_side=80, max_side=10_000)
MAX_BYTES = 5_242_880
DEFAULT_MIN_CONFIDENCE = 55.0
MAX_LABELS = 1000  # "the default and upper limit"

# Rekognition's own categories, by the most specific label that has one. Everything else is an everyday object.
_CATEGORIES = {
    "Animal": "Animals and Pets",
    "Transportation": "Vehicles and Automotive",
    "Clothing": "Apparel and Accessories",
    "Footwear": "Apparel and Accessories",
    "Jewelry": "Apparel and Accessories",
    "Glasses": "Apparel and Accessories",
    "Food": "Food and Beverage",
    "Plant": "Plants and Flowers",
    "Fungus": "Plants and Flowers",
    "Furniture": "Furniture and Furnishings",
    "Curtain": "Furniture and Furnishings",
    "Rug": "Furniture and Furnishings",
    "Bedding": "Home and Indoors",
    "Cookware": "Home and Indoors",
    "Kitchen Utensil": "Home and Indoors",
    "Tableware": "Home and Indoors",
    "Appliance": "Home Appliances",
    "Electronics": "Technology and Computing",
    "Computer": "Technology and Computing",
    "Musical Instrument": "Hobbies and Interests",
    "Toy": "Toys and Gaming",
    "Sports Equipment": "Sports",
    "Ball": "Sports",
    "Weapon": "Weapons and Military",
    "Armor": "Weapons and Military",
    "Tool": "Tools and Machinery",
    "Machine": "Tools and Machinery",
    "Building": "Buildings and Architecture",
    "Housing": "Buildings and Architecture",
    "Bridge": "Buildings and Architecture",
    "Tower": "Buildings and Architecture",
    "Monument": "Buildings and Architecture",
    "Geological Formation": "Nature and Outdoors",
    "Person": "Person Description",
    "Publication": "Text and Documents",
    "Toiletries": "Beauty and Personal Care",
    "Cosmetics": "Beauty and Personal Care",
}
_DEFAULT_CATEGORY = "Everyday Objects"

_FAILURES = {
    FaultKind.THROTTLE: (400, "ThrottlingException", "Rate exceeded"),
    FaultKind.PROVISIONED: (
        400,
        "ProvisionedThroughputExceededException",
        "Provisioned rate exceeded",
    ),
    FaultKind.TOO_MANY: (429, "TooManyRequestsException", "Too Many Requests"),
    FaultKind.INTERNAL: (500, "InternalServerError", "Internal server error"),
    FaultKind.UNAVAILABLE: (503, "ServiceUnavailableException", "Service is unable to handle request."),
    FaultKind.EXPIRED: (400, "ExpiredTokenException", "The security token included in the request is expired"),
}


class _RefusedError(Exception):
    """An error reply in the making: the exception's name on the wire, and its message."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True)
class _Query:
    """A valid DetectLabels request."""

    image: bytes
    max_labels: int
    min_confidence: float


class RekognitionWire:
    """``accepted_keys``: the keys that are known, None for any: ``ID:SECRET``, or ``ID`` with signatures left unverified.

    Raises ApibenchError where signatures are to be verified and botocore is not installed.
    """

    provider = "aws"
    title = "AWS Rekognition"
    call = f"POST / with X-Amz-Target: {TARGET}"
    kind = WireKind.HTTP

    def __init__(self, accepted_keys: Collection[str] | None = None) -> None:
        self._secrets: dict[str, str] | None = None
        if accepted_keys is not None:
            self._secrets = {key_id: secret for key_id, _, secret in (key.partition(":") for key in accepted_keys)}
            if any(self._secrets.values()):
                sigv4.require()

    def claims(self, request: Request) -> bool:
        return request.method == "POST" and request.path == "/" and "x-amz-target" in request.headers

    def answer(self, request: Request, answerer: Answerer) -> Reply:
        try:
            if request.headers["x-amz-target"] != TARGET:
                raise _RefusedError("UnknownOperationException", "The operation is not known to this service")
            self._authenticate(request)
            query = _parse(request.body)
            labels = self._labels(query, answerer)
        except _RefusedError as refused:
            return _error(request, refused.status, refused.code, refused.message)
        body = {"LabelModelVersion": f"emulated/{answerer.name}", "Labels": labels}
        digest = hashlib.sha256(query.image).hexdigest()
        return Reply(200, json.dumps(body).encode(), _headers(request), operation=OPERATION, billed=(digest,))

    def failure(self, request: Request, kind: FaultKind) -> Reply:
        status, code, message = _FAILURES[kind]
        extra = (("Retry-After", "1"),) if status == 429 else ()
        return _error(request, status, code, message, extra)

    def _authenticate(self, request: Request) -> None:
        """The signature and its key id. Nothing of either is repeated in a reply."""
        header = request.headers.get("authorization", "")
        if not header:
            raise _RefusedError("MissingAuthenticationTokenException", "Request is missing Authentication Token")
        scheme, _, rest = header.partition(" ")
        fields = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        names = ("Credential", "SignedHeaders", "Signature")
        missing = [name for name in names if not fields.get(name)]
        signed = None if missing else sigv4.Signed.of(*(fields[name] for name in names))
        if scheme != "AWS4-HMAC-SHA256" or signed is None:
            wanted = " ".join(f"Authorization header requires '{name}' parameter." for name in missing)
            raise _RefusedError("IncompleteSignatureException", wanted or "Credential must be a signing scope.")
        if self._secrets is None:
            return
        if signed.key_id not in self._secrets:
            raise _RefusedError("UnrecognizedClientException", "The security token included in the request is invalid.")
        secret = self._secrets[signed.key_id]
        if secret and (flaw := sigv4.flaw(request, signed, secret)):
            raise _RefusedError("InvalidSignatureException", flaw)

    def _labels(self, query: _Query, answerer: Answerer) -> list[dict[str, Any]]:
        try:
            probabilities = answerer.probabilities(query.image, LIMITS)
        except ImageRefusedError as refused:
            raise _image_refused(refused) from refused
        return label_list(probabilities, query.max_labels, query.min_confidence)


def wires(accepted_keys: Collection[str] | None) -> tuple[RekognitionWire, ...]:
    """What :mod:`apibench.emulator.vendors` asks every vendor's module for."""
    return (RekognitionWire(accepted_keys),)


def label_list(probabilities: Probabilities, max_labels: int, min_confidence: float) -> list[dict[str, Any]]:
    """``Labels`` of a response, from (1000,) probabilities of the ImageNet classes.

    Classes and the groups above them, each once; a group's confidence is the sum of its classes', at most 100. Highest
    confidence first; of equal ones the more specific label first, then by name. Confidences are float32, on 0 to 100.
    """
    words = vocabulary()
    shares = probabilities.tolist()
    # Exact sums, so that a parent is never below its child by a rounding error.
    shares += [math.fsum(shares[i] for i in group.members) for group in words.groups.values()]
    confidences = np.minimum(100.0 * np.array(shares), 100.0).astype(np.float32).tolist()
    entries = [(entry.name, entry.parents, entry.lemmas, 1) for entry in words.classes]
    entries += [(group.name, group.parents, (), 0) for group in words.groups.values()]
    found = [
        # A group may equal one of its own parents, which has fewer above it.
        (-confidence, -is_class, -len(parents), name, parents, lemmas)
        for confidence, (name, parents, lemmas, is_class) in zip(confidences, entries, strict=True)
        if confidence >= min_confidence
    ]
    return [
        {
            "Name": name,
            "Confidence": -minus,
            "Instances": [],
            "Parents": [{"Name": parent} for parent in parents],
            "Aliases": [{"Name": alias} for alias in map(display_name, lemmas) if alias != name],
            "Categories": [{"Name": _category(name, parents)}],
        }
        for minus, _, _, name, parents, lemmas in sorted(found)[:max_labels]
    ]


def _category(name: str, parents: tuple[str, ...]) -> str:
    return next((_CATEGORIES[label] for label in (name, *parents) if label in _CATEGORIES), _DEFAULT_CATEGORY)


def _parse(body: bytes) -> _Query:
    """Read and validate the request's JSON, in the service's order: its form, its constraints, what it refers to."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _RefusedError("SerializationException", "Could not parse the request body") from error
    if not isinstance(content, dict):
        raise _RefusedError("SerializationException", "Start of structure or map found where not expected")
    image = content.get("Image")
    if image is None:
        raise _constraint("null", "image", "Member must not be null")
    if not isinstance(image, dict):
        raise _RefusedError("SerializationException", "Unexpected type for 'Image'")
    max_labels = _number(content, "MaxLabels", MAX_LABELS)
    min_confidence = _number(content, "MinConfidence", DEFAULT_MIN_CONFIDENCE)
    if max_labels != int(max_labels):
        raise _RefusedError("SerializationException", "'MaxLabels' can not be converted to an Integer")
    if max_labels < 0:
        raise _constraint(int(max_labels), "maxLabels", "Member must have value greater than or equal to 0")
    if min_confidence < 0:
        raise _constraint(min_confidence, "minConfidence", "Member must have value greater than or equal to 0")
    if min_confidence > 100:
        raise _constraint(min_confidence, "minConfidence", "Member must have value less than or equal to 100")
    data = _image_bytes(image)
    if content.get("Features", ["GENERAL_LABELS"]) != ["GENERAL_LABELS"] or content.get("Settings"):
        raise _RefusedError("InvalidParameterException", "Features and Settings are not emulated")
    return _Query(data, min(int(max_labels), MAX_LABELS), float(min_confidence))


def _number(content: Mapping[str, Any], name: str, default: float) -> float:
    value = content.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _RefusedError("SerializationException", f"'{name}' can not be converted to a number")
    return value


def _image_bytes(image: Mapping[str, Any]) -> bytes:
    encoded = image.get("Bytes")
    if encoded is None:
        if image.get("S3Object") is not None:
            raise _RefusedError(
                "InvalidS3ObjectException",
                "Unable to get object metadata from S3. Check object key, region and/or access permissions.",
            )
        raise _RefusedError("InvalidParameterException", "Request has invalid parameters")
    try:
        data = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else None
    except (binascii.Error, ValueError):
        data = None
    if data is None:
        raise _RefusedError("SerializationException", "'Bytes' can not be converted to a Blob")
    value = f"java.nio.HeapByteBuffer[pos=0 lim={len(data)} cap={len(data)}]"
    if not data:
        raise _constraint(value, "image.bytes", "Member must have length greater than or equal to 1")
    if len(data) > MAX_BYTES:
        raise _constraint(value, "image.bytes", f"Member must have length less than or equal to {MAX_BYTES}")
    return data


def _constraint(value: object, where: str, text: str) -> _RefusedError:
    shown = "null" if value == "null" else f"'{value}'"
    return _RefusedError(
        "ValidationException",
        f"1 validation error detected: Value {shown} at '{where}' failed to satisfy constraint: {text}",
    )


def _image_refused(refused: ImageRefusedError) -> _RefusedError:
    if refused.reason is Refusal.FORMAT:
        return _RefusedError("InvalidImageFormatException", "Request has invalid image format")
    if refused.reason is Refusal.FAILED:
        status, code, message = _FAILURES[FaultKind.INTERNAL]
        return _RefusedError(code, message, status)
    if refused.reason is Refusal.TOO_SMALL:
        return _RefusedError("InvalidParameterException", "Request has invalid parameters")
    if refused.width is None:
        return _RefusedError("ImageTooLargeException", "Image dimensions: null x null pixels exceed the maximum limit.")
    return _RefusedError(
        "ImageTooLargeException",
        f"Input image dimensions {refused.width} x {refused.height} exceed maximum dimension size of "
        f"{LIMITS.max_side} pixels",
    )


def _headers(request: Request) -> tuple[tuple[str, str], ...]:
    return (("Content-Type", CONTENT_TYPE), ("x-amzn-RequestId", request.id))


def _error(request: Request, status: int, code: str, message: str, extra: tuple[tuple[str, str], ...] = ()) -> Reply:
    """An error in the form of the developer guide: both spellings of the message, as SDKs read either."""
    body = {"__type": code, "Code": code, "Logref": request.id, "Message": message, "message": message}
    headers = (*_headers(request), ("x-amzn-ErrorType", code), *extra)
    return Reply(status, json.dumps(body).encode(), headers, outcome=code)
