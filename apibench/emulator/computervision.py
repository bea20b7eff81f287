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

from collections.abc import Collection
from io import BytesIO
from typing import Any

from PIL import Image

from apibench.emulator import cognitive
from apibench.emulator.answerer import Answerer, ImageRefusedError, Limits, Refusal
from apibench.emulator.cognitive import CognitiveWire, RefusedError, invalid
from apibench.emulator.imageanalysis import ImageAnalysisWire
from apibench.emulator.wire import Request

LIMITS = Limits(formats=("JPEG", "PNG", "GIF", "BMP"), min_side=51, max_side=15_999)
TOO_MANY_BYTES = 4 * 1024 * 1024
LANGUAGES = ("en", "es", "ja", "pt", "zh")
VERSIONS = ("latest", "2021-04-01", "2021-05-01")

_FORMATS = {"JPEG": "Jpeg", "MPO": "Jpeg", "PNG": "Png", "GIF": "Gif", "BMP": "Bmp"}


class ComputerVisionWire(CognitiveWire):
    title = "Azure Computer Vision"
    path = "/vision/v3.2/tag"
    operation = "Tag"
    throttled = (
        "Requests to the Tag Image Operation under Computer Vision API (v3.2) have exceeded call rate limit of your current "
        "ComputerVision pricing tier. Please retry after 1 second."
    )

    def claims(self, request: Request) -> bool:
        return cognitive.path_of(request).startswith("/vision/") or cognitive.KEY_HEADER in request.headers

    def _content(self, request: Request, answerer: Answerer) -> dict[str, Any]:
        _check_query(request)
        _check_body(request)
        return _answer(request.body, answerer) | {"requestId": request.id}


def wires(accepted_keys: Collection[str] | None) -> tuple[ImageAnalysisWire, ComputerVisionWire]:
    """What :mod:`apibench.emulator.vendors` asks every vendor's module for. The second takes all that has Azure's header."""
    return ImageAnalysisWire(accepted_keys), ComputerVisionWire(accepted_keys)


def _check_query(request: Request) -> None:
    """``language`` and ``model-version``; what is not known is ignored."""
    query = cognitive.query_of(request)
    if (language := query.get("language", "en")) not in LANGUAGES:
        raise invalid("NotSupportedLanguage", f"Specified language {language!r} is not supported.")
    if (version := query.get("model-version", "latest")) not in VERSIONS:
        raise invalid("InvalidModel", f"Specified model version {version!r} is not supported.")


def _check_body(request: Request) -> None:
    """The form and the size of what was sent, before anything looks at it."""
    cognitive.check_media(request)
    if not request.body:
        raise invalid("InvalidImageFormat", "Input data is not a valid image.")
    if len(request.body) >= TOO_MANY_BYTES:
        raise invalid("InvalidImageSize", "Input image is too large.")


def _answer(data: bytes, answerer: Answerer) -> dict[str, Any]:
    """``tags``, highest confidence first, and ``metadata``, as the file's header has it."""
    try:
        probabilities = answerer.probabilities(data, LIMITS)
    except ImageRefusedError as refused:
        raise _image_refused(refused) from refused
    with Image.open(BytesIO(data), formats=LIMITS.formats) as image:
        metadata = {"width": image.width, "height": image.height, "format": _FORMATS[image.format or ""]}
    return {"tags": cognitive.tags(probabilities), "metadata": metadata}


def _image_refused(refused: ImageRefusedError) -> RefusedError:
    match refused.reason:
        case Refusal.FAILED:
            return cognitive.failed()
        case Refusal.FORMAT:
            return invalid("InvalidImageFormat", "Input data is not a valid image.")
        case Refusal.TOO_SMALL:
            return invalid("InvalidImageSize", "Image must be at least 50 pixels in width and height.")
        case _:
            return invalid("InvalidImageSize", "Input image is too large.")
