"""Clarifai's wire: ``PostModelOutputs`` of the V2 API over gRPC, for the public model general-image-recognition.

Sources: the messages of clarifai-grpc; docs.clarifai.com's pages "API Outputs" (a reply, and MODEL_DOES_NOT_EXIST), "Status
Codes" (codes and descriptions), "Rate Limits" (the throttled status) and "Upload Inputs" (128 images and 128 MB a request,
20 MB and 85 megapixels an image, formats); Clarifai's own tests of its SDKs (FAILURE with INPUT_DOWNLOAD_FAILED for an image,
MIXED_STATUS with others that are fine, CONN_KEY_INVALID for an unknown key). Not verified against the live service, and not
known from these sources: whether it ever throttles or fails by a gRPC status (here 429 is RESOURCE_EXHAUSTED and 503 is
UNAVAILABLE), what an expired token is told (here CONN_TOKEN_INVALID) and an image that failed inside the service (here
INTERNAL_SERVER_ISSUE in its output), which status a request of too many images or with an unknown option gets, and whether
too large an image has INPUT_OVER_LIMIT as its output's status. Concepts are written as the service writes them
(lower-case names, ``ai_`` ids), but the ids are made of WordNet's and are not Clarifai's. Not emulated, and refused: images by
URL, ``select_concepts``, languages other than English, other models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field

from clarifai_grpc.grpc.api import resources_pb2, service_pb2
from clarifai_grpc.grpc.api.status import status_code_pb2, status_pb2
from google.protobuf.message import DecodeError

from apibench.emulator.answerer import Answerer, ImageRefusedError, Limits, Refusal
from apibench.emulator.faults import FaultKind
from apibench.emulator.terms import terms
from apibench.emulator.wire import ANSWERED, Reply, Request, RpcError
from apibench.query.contract import WireKind

SERVICE = "/clarifai.api.V2/"
OPERATION = "PostModelOutputs"
USER, APP, MODEL = "clarifai", "main", "general-image-recognition"
LIMITS = Limits(
    formats=("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF"), min_side=1, max_side=85_000_000, max_pixels=85_000_000
)
MAX_BYTES = 20 * 1024 * 1024  # "less than 20 MB"
MAX_BATCH, MAX_BATCH_BYTES = 128, 128 * 1024 * 1024
DEFAULT_CONCEPTS, MAX_CONCEPTS = 20, 200

# Descriptions of the page "Status Codes", where it has one.
_TEXTS = {
    "SUCCESS": "Ok",
    "MIXED_STATUS": "Mixed Success",
    "FAILURE": "Failure",
    "CONN_THROTTLED": "Making too many requests",
    "CONN_TOKEN_INVALID": "Invalid authentication token",
    "CONN_KEY_INVALID": "Invalid API key or Invalid API key/application pair",
    "CONN_INVALID_REQUEST": "Invalid request",
    "MODEL_DOES_NOT_EXIST": "Model does not exist",
    "MODEL_INVALID_ARGUMENT": "Invalid model argument",
    "INPUT_DOWNLOAD_FAILED": "Download failed or we could not process it. Check URL or bytes you send in the request",
    "INPUT_INVALID_ARGUMENT": "Input invalid argument",
    "INPUT_INVALID_REQUEST": "Invalid input request",
    "INPUT_OVER_LIMIT": "Input image is larger than the allowed limit",
    "RPC_MAX_MESSAGE_SIZE_EXCEEDED": "Sorry, the request sent is larger than the allowed limit.",
    "INTERNAL_SERVER_ISSUE": "Internal server issue",
}


class _RefusedError(Exception):
    """A status in the making: of the whole request, or of one image."""

    def __init__(self, code: str, details: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.details = details


@dataclass
class _Answers:
    """Outputs so far, and the SHA-256 of the images that were answered."""

    outputs: list[resources_pb2.Output] = field(default_factory=list)
    billed: list[str] = field(default_factory=list)

    @property
    def code(self) -> str:
        if len(self.billed) == len(self.outputs):
            return "SUCCESS"
        return "MIXED_STATUS" if self.billed else "FAILURE"


class ClarifaiWire:
    """``accepted_keys``: the personal access tokens that are known; None takes any."""

    provider = "clarifai"
    title = "Clarifai"
    call = SERVICE + OPERATION
    kind = WireKind.GRPC

    def __init__(self, accepted_keys: Collection[str] | None = None) -> None:
        self._accepted = None if accepted_keys is None else frozenset(accepted_keys)

    def claims(self, request: Request) -> bool:
        return request.path.startswith(SERVICE)

    def answer(self, request: Request, answerer: Answerer) -> Reply:
        if request.path != SERVICE + OPERATION:
            return _ended("UNIMPLEMENTED", f"{request.path} is not emulated")
        try:
            asked = service_pb2.PostModelOutputsRequest.FromString(request.body)
        except DecodeError:
            return _ended("INTERNAL", "the request is no PostModelOutputsRequest")
        try:
            self._authenticate(request)
            _check(asked, answerer)
        except _RefusedError as refused:
            return _refusal(request, refused)
        answers = _Answers()
        for number, given in enumerate(asked.inputs):
            _look(request, number, given, asked, answerer, answers)
        reply = service_pb2.MultiOutputResponse(status=_status(answers.code, request=request), outputs=answers.outputs)
        outcome = ANSWERED if answers.billed else answers.code
        return Reply(200, reply.SerializeToString(), outcome=outcome, operation=OPERATION, billed=tuple(answers.billed))

    def failure(self, request: Request, kind: FaultKind) -> Reply:
        match kind:
            case FaultKind.TOO_MANY:
                return _ended("RESOURCE_EXHAUSTED", "Too many requests")
            case FaultKind.UNAVAILABLE:
                return _ended("UNAVAILABLE", "The service is unavailable")
            case FaultKind.THROTTLE | FaultKind.PROVISIONED:
                return _refusal(request, _RefusedError("CONN_THROTTLED", "exceeded limit of 15 requests per second"))
            case FaultKind.EXPIRED:
                return _refusal(request, _RefusedError("CONN_TOKEN_INVALID"))
            case _:
                return _refusal(request, _RefusedError("INTERNAL_SERVER_ISSUE"))

    def _authenticate(self, request: Request) -> None:
        """A token in the service's scheme. Nothing of the header is repeated in a reply."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "key" or not key:
            raise _RefusedError("CONN_INVALID_REQUEST", "no key in the authorization header")
        if self._accepted is not None and key not in self._accepted:
            raise _RefusedError("CONN_KEY_INVALID")


def wires(accepted_keys: Collection[str] | None) -> tuple[ClarifaiWire, ...]:
    """What :mod:`apibench.emulator.vendors` asks every vendor's module for."""
    return (ClarifaiWire(accepted_keys),)


def _check(asked: service_pb2.PostModelOutputsRequest, answerer: Answerer) -> None:
    """What holds for the whole request: model, number and size of images, options."""
    whose = asked.user_app_id
    if (whose.user_id, whose.app_id, asked.model_id) != (USER, APP, MODEL):
        raise _RefusedError("MODEL_DOES_NOT_EXIST", "Model does not exist")
    if asked.version_id not in ("", _version(answerer)):
        raise _RefusedError("MODEL_DOES_NOT_EXIST", f"the emulated model's version is {_version(answerer)}")
    if not 1 <= len(asked.inputs) <= MAX_BATCH:
        raise _RefusedError("INPUT_INVALID_REQUEST", f"{len(asked.inputs)} inputs; from 1 to {MAX_BATCH} are allowed")
    if sum(len(given.data.image.base64) for given in asked.inputs) > MAX_BATCH_BYTES:
        raise _RefusedError("RPC_MAX_MESSAGE_SIZE_EXCEEDED")
    config = asked.model.output_info.output_config
    if config.max_concepts > MAX_CONCEPTS:
        raise _RefusedError("MODEL_INVALID_ARGUMENT", f"max_concepts is at most {MAX_CONCEPTS}")
    if not 0 <= config.min_value <= 1:
        raise _RefusedError("MODEL_INVALID_ARGUMENT", "min_value is from 0 to 1")
    if config.select_concepts or config.language not in ("", "en"):
        raise _RefusedError("MODEL_INVALID_ARGUMENT", "select_concepts and languages are not emulated")


def _look(
    request: Request,
    number: int,
    given: resources_pb2.Input,
    asked: service_pb2.PostModelOutputsRequest,
    answerer: Answerer,
    answers: _Answers,
) -> None:
    """Add one image's output."""
    output = resources_pb2.Output(
        id=hashlib.md5(f"{request.id}/{number}".encode(), usedforsecurity=False).hexdigest(),
        status=_status("SUCCESS"),
        model=_model(answerer),
        input=resources_pb2.Input(id=given.id),
    )
    output.data.SetInParent()  # present even where it is empty
    image = given.data.image.base64  # bytes, whatever its name says
    try:
        config = asked.model.output_info.output_config
        output.data.concepts.extend(_concepts(image, config, answerer))
        answers.billed.append(hashlib.sha256(image).hexdigest())
    except _RefusedError as refused:
        output.status.CopyFrom(_status(refused.code, refused.details))
    answers.outputs.append(output)


def _concepts(image: bytes, config: resources_pb2.OutputConfig, answerer: Answerer) -> list[resources_pb2.Concept]:
    """Concepts of one image, highest value first. Raises _RefusedError for an image that is not taken."""
    if not image:
        raise _RefusedError("INPUT_INVALID_ARGUMENT", "no image bytes; images by URL are not emulated")
    if len(image) >= MAX_BYTES:
        raise _RefusedError("INPUT_OVER_LIMIT")
    try:
        probabilities = answerer.probabilities(image, LIMITS)
    except ImageRefusedError as refused:
        codes = {Refusal.TOO_LARGE: "INPUT_OVER_LIMIT", Refusal.FAILED: "INTERNAL_SERVER_ISSUE"}
        raise _RefusedError(codes.get(refused.reason, "INPUT_DOWNLOAD_FAILED")) from refused
    found = terms(probabilities, config.min_value)[: config.max_concepts or DEFAULT_CONCEPTS]
    return [
        resources_pb2.Concept(id=f"ai_{term.synset}", name=term.name.lower(), value=term.score, app_id=APP)
        for term in found
    ]


def _version(answerer: Answerer) -> str:
    return f"emulated/{answerer.name}"


def _model(answerer: Answerer) -> resources_pb2.Model:
    version = resources_pb2.ModelVersion(
        id=_version(answerer),
        status=status_pb2.Status(code="MODEL_TRAINED", description="Model is trained and ready for deployment"),
        app_id=APP,
        user_id=USER,
    )
    return resources_pb2.Model(
        id=MODEL,
        name="Image Recognition",
        app_id=APP,
        user_id=USER,
        model_type_id="visual-classifier",
        model_version=version,
    )


def _status(code: str, details: str = "", request: Request | None = None) -> status_pb2.Status:
    """A status; that of a whole reply names the request."""
    return status_pb2.Status(
        code=status_code_pb2.StatusCode.Value(code),
        description=_TEXTS[code],
        details=details,
        req_id=request.id.replace("-", "") if request else "",
    )


def _refusal(request: Request, refused: _RefusedError) -> Reply:
    """A reply without outputs. Over gRPC it is a message like any other."""
    reply = service_pb2.MultiOutputResponse(status=_status(refused.code, refused.details, request))
    return Reply(200, reply.SerializeToString(), outcome=refused.code, operation=OPERATION)


def _ended(code: str, message: str) -> Reply:
    """A call that ends by a gRPC status."""
    return Reply(200, b"", outcome=code, operation=OPERATION, rpc=RpcError(code, message))
