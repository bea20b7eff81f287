"""Azure Image Analysis 4.0's wire: ``POST /computervision/imageanalysis:analyze`` for tags, with the image as the body.

Sources: the REST reference of "Image Analysis - Analyze" (2023-10-01) and the SDK ``azure-ai-vision-imageanalysis`` for shapes
and parameters; the overview of Image Analysis for limits (less than 20 MB, more than 50 x 50 and less than 16,000 x 16,000
pixels, JPEG, PNG, GIF, BMP, WEBP, ICO, TIFF or MPO); the refusal of too many bytes, which names no inner code, as a user
reported it in public. Not verified against the live service: which of several errors it reports first, the text of most
messages, the codes for a feature, a version or a language that it has not, and its tags' names, which are ImageNet's here, in
lower case and in English whatever the language. Not emulated, and refused: every feature but tags, images by URL, models of
one's own. Bearer tokens are not taken: the key's header is.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from PIL import Image

from apibench.emulator import cognitive
from apibench.emulator.answerer import Answerer, ImageRefusedError, Limits, Refusal
from apibench.emulator.cognitive import CognitiveWire, RefusedError, invalid
from apibench.emulator.wire import Request

LIMITS = Limits(formats=("JPEG", "PNG", "GIF", "BMP", "WEBP", "ICO", "TIFF", "MPO"), min_side=51, max_side=15_999)
MAX_BYTES = 20 * 1024 * 1024
VERSIONS = ("2023-10-01", "2024-02-01")
LANGUAGES = ("en", "es", "ja", "pt", "zh")
FEATURES = ("tags", "caption", "denseCaptions", "objects", "read", "smartCrops", "people")


class ImageAnalysisWire(CognitiveWire):
    title = "Azure Image Analysis 4.0"
    path = "/computervision/imageanalysis:analyze"
    operation = "Analyze"
    throttled = (
        "Requests to the ImageAnalysis_Analyze Operation under Computer Vision API (2023-10-01) have exceeded call rate limit "
        "of your current ComputerVision pricing tier. Please retry after 1 second."
    )

    def claims(self, request: Request) -> bool:
        return cognitive.path_of(request).startswith("/computervision/")

    def _content(self, request: Request, answerer: Answerer) -> dict[str, Any]:
        _check_query(request)
        cognitive.check_media(request)
        if not 0 < len(request.body) < MAX_BYTES:
            raise invalid(None, f"The image size is not allowed to be zero or larger than {MAX_BYTES} bytes.")
        try:
            probabilities = answerer.probabilities(request.body, LIMITS)
        except ImageRefusedError as refused:
            raise _image_refused(refused) from refused
        with Image.open(BytesIO(request.body), formats=LIMITS.formats) as image:
            metadata = {"width": image.width, "height": image.height}
        return {"metadata": metadata, "tagsResult": {"values": cognitive.tags(probabilities)}}


def _check_query(request: Request) -> None:
    query = cognitive.query_of(request)
    if query.get("api-version") not in VERSIONS:
        raise RefusedError(404, "404", "Resource not found")
    wanted = [feature.strip().lower() for feature in query.get("features", "").split(",") if feature.strip()]
    if not wanted:
        raise invalid("InvalidArgument", "The 'features' parameter is required.")
    if unknown := [name for name in wanted if name not in map(str.lower, FEATURES)]:
        raise invalid("InvalidArgument", f"The feature {unknown[0]!r} is not valid.")
    if others := [name for name in wanted if name != "tags"]:
        raise invalid("InvalidArgument", f"The feature {others[0]!r} is not emulated; 'tags' is.")
    if query.get("model-name"):
        raise invalid("InvalidArgument", "Models of one's own are not emulated.")
    if (language := query.get("language", "en")) not in LANGUAGES:
        raise invalid("NotSupportedLanguage", f"Specified language {language!r} is not supported.")


def _image_refused(refused: ImageRefusedError) -> RefusedError:
    match refused.reason:
        case Refusal.FAILED:
            return cognitive.failed()
        case Refusal.FORMAT:
            return invalid("InvalidImageFormat", "Image format is not valid.")
        case _:
            message = "The image dimensions are not allowed: more than 50 x 50 and less than 16000 x 16000 pixels are."
            return invalid("InvalidImageSize", message)
