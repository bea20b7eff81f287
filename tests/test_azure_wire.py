"""The emulator's Azure wire, over real sockets: the unmodified SDK is its client, but where it would not send what is tested."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apibench.emulator import Answerer, Emulator
from tests.emulation import Start, bomb, emulators, encode, picture

computervision: Any = pytest.importorskip("azure.cognitiveservices.vision.computervision")
authentication: Any = pytest.importorskip("msrest.authentication")
RefusedByAzure = computervision.models.ComputerVisionErrorResponseException
MIB = 1024 * 1024


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts emulators with the tiny classifier, and stops them."""
    with emulators("azure") as started:
        yield started


def client_of(emulator: Emulator, key: str = "EMULATED", slash: str = "") -> Any:
    client = computervision.ComputerVisionClient(emulator.url + slash, authentication.CognitiveServicesCredentials(key))
    client.config.proxies.use_env_settings = False
    client.config.connection.timeout = 10
    client.config.retry_policy.retries = 0
    return client


def ask(emulator: Emulator, image: bytes | None = None, **options: Any) -> Any:
    with client_of(emulator) as client:
        return client.tag_image_in_stream(io.BytesIO(picture() if image is None else image), **options)


def refusal(emulator: Emulator, image: bytes | None = None, **options: Any) -> Any:
    with pytest.raises(RefusedByAzure) as caught:
        ask(emulator, image, **options)
    return caught.value


TAG = "/vision/v3.2/tag"


def send(
    emulator: Emulator, path: str = TAG, headers: dict[str, str] | None = None, method: str = "POST"
) -> tuple[int, Any, Any]:
    """A request by hand, with a key unless ``headers`` say otherwise (an empty value leaves a header out)."""
    sent = {"Ocp-Apim-Subscription-Key": "KEY", "Content-Type": "application/octet-stream"} | (headers or {})
    connection = HTTPConnection("127.0.0.1", emulator.port, timeout=10)
    try:
        connection.request(method, path, picture(), {name: value for name, value in sent.items() if value})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read()), reply.headers
    finally:
        connection.close()


# --- answers ---


def test_an_answer_has_azures_shape_scale_and_style(start: Start) -> None:
    emulator = start()
    status, body, headers = send(emulator)
    assert status == 200
    assert set(body) == {"tags", "requestId", "metadata", "modelVersion"}
    assert headers["Content-Type"].startswith("application/json")
    assert body["requestId"] == headers["apim-request-id"]
    assert body["metadata"] == {"width": 96, "height": 96, "format": "Png"}
    assert body["modelVersion"] == "emulated/tiny"
    assert {frozenset(tag) for tag in body["tags"]} == {frozenset({"name", "confidence"})}
    assert emulator.hits == Counter({"answered": 1})


def test_tags_are_in_lower_case_each_once_and_the_highest_first(start: Start) -> None:
    tags = ask(start(), picture(200, 40, 10)).tags
    names = [tag.name for tag in tags]
    assert names[:2] == ["golden retriever", "retriever"], "the network's own class first, then what is above it"
    assert {"dog", "animal", "labrador retriever", "pizza", "food"} <= set(names)
    assert len(set(names)) == len(names)
    assert names == [name.lower() for name in names]
    confidences = [tag.confidence for tag in tags]
    assert confidences == sorted(confidences, reverse=True)
    assert confidences[0] == pytest.approx(0.8, abs=1e-3)
    assert all(0.01 <= confidence <= 1 for confidence in confidences)


def test_tags_below_a_hundredth_are_not_said(start: Start) -> None:
    names = [tag.name for tag in ask(start(), picture(254, 1, 0)).tags]
    assert "labrador retriever" not in names
    assert names[0] == "golden retriever"


def test_the_sdk_reads_every_field(start: Start) -> None:
    found = ask(start(), encode(Image.new("RGB", (120, 60), (0, 0, 255)), "JPEG"))
    assert (found.metadata.width, found.metadata.height, found.metadata.format) == (120, 60, "Jpeg")
    assert found.model_version == "emulated/tiny"
    assert found.request_id
    assert found.tags[0].name == "pizza"


@pytest.mark.parametrize(
    ("kind", "name"), [("JPEG", "Jpeg"), ("PNG", "Png"), ("GIF", "Gif"), ("BMP", "Bmp"), ("MPO", "Jpeg")]
)
def test_the_documented_formats_are_taken(start: Start, kind: str, name: str) -> None:
    found = ask(start(), encode(Image.new("RGB", (60, 70), (0, 255, 0)), kind))
    assert found.metadata.format == name
    assert found.tags[0].name == "labrador retriever"


def test_an_endpoint_as_the_portal_shows_it_is_understood(start: Start) -> None:
    """With a slash at its end, to which the SDK adds its own."""
    with client_of(start(), slash="/") as client:
        assert client.tag_image_in_stream(io.BytesIO(picture())).tags


@pytest.mark.parametrize("language", ["en", "es", "ja", "pt", "zh"])
@pytest.mark.parametrize("version", ["latest", "2021-04-01"])
def test_documented_languages_and_model_versions_are_taken(start: Start, language: str, version: str) -> None:
    assert ask(start(), language=language, model_version=version).tags


def test_both_settings_may_be_left_out(start: Start) -> None:
    assert send(start(), TAG)[0] == 200


# --- refusals ---

LETTER = Image.new("RGB", (100, 100))
REFUSED_IMAGES = [
    ("text", b"not an image", "InvalidImageFormat", "valid image"),
    ("nothing", b"", "InvalidImageFormat", "valid image"),
    ("truncated", picture()[:60], "InvalidImageFormat", "valid image"),
    ("no pixels", bomb(100), "InvalidImageFormat", "valid image"),
    ("WebP", encode(LETTER, "WEBP"), "InvalidImageFormat", "valid image"),
    ("TIFF", encode(LETTER, "TIFF"), "InvalidImageFormat", "valid image"),
    ("too narrow", picture(size=(50, 200)), "InvalidImageSize", "at least 50 pixels"),
    ("too wide", picture(size=(16_000, 51)), "InvalidImageSize", "too large"),
    ("a bomb", bomb(30_000), "InvalidImageSize", "too large"),
    ("too many bytes", picture().ljust(4 * MIB, b"\0"), "InvalidImageSize", "too large"),
    ("far too many bytes", bytes(20 * MIB), "InvalidImageSize", "too large"),
]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("image", "code", "message"), [row[1:] for row in REFUSED_IMAGES], ids=[r[0] for r in REFUSED_IMAGES]
)
def test_an_image_is_refused_as_azure_does(start: Start, image: bytes, code: str, message: str) -> None:
    emulator = start()
    error = refusal(emulator, image)
    assert error.response.status_code == 400
    assert error.response.headers["apim-request-id"]
    assert error.error.error.code == "InvalidRequest"
    assert error.error.error.innererror.code == code
    assert message in error.error.error.innererror.message
    assert emulator.hits == Counter({code: 1})
    assert emulator.bill_count == 0


def test_images_at_the_limits_are_taken(start: Start) -> None:
    emulator = start()
    for image in (picture(size=(51, 51)), picture(size=(15_999, 51)), picture().ljust(4 * MIB - 1, b"\0")):
        assert ask(emulator, image).tags
    assert emulator.bill_count == 3


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("language=de", "NotSupportedLanguage"),
        ("language=", "NotSupportedLanguage"),
        ("model-version=2019-01-01", "InvalidModel"),
        ("language=en&model-version=newest", "InvalidModel"),
    ],
)
def test_unknown_languages_and_model_versions_are_refused(start: Start, query: str, code: str) -> None:
    emulator = start()
    status, body, _ = send(emulator, f"{TAG}?{query}")
    assert (status, body["error"]["code"], body["error"]["innererror"]["code"]) == (400, "InvalidRequest", code)
    assert emulator.bill_count == 0


def test_the_sdk_sees_a_language_that_is_not_supported(start: Start) -> None:
    assert refusal(start(), language="de").error.error.innererror.code == "NotSupportedLanguage"


@pytest.mark.parametrize("media", ["application/json", "multipart/form-data; boundary=x", "image/png", ""])
def test_another_media_type_is_refused(start: Start, media: str) -> None:
    status, body, _ = send(start(), headers={"Content-Type": media})
    assert (status, body["error"]["innererror"]["code"]) == (415, "UnsupportedMediaType")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/vision/v3.2/analyze"),
        ("POST", "/vision/v3.1/tag"),
        ("POST", "/vision/v3.2/tag/"),
        ("GET", TAG),
        ("POST", "/"),
    ],
)
def test_what_is_not_there_is_not_found_in_the_vendors_form(start: Start, method: str, path: str) -> None:
    emulator = start()
    status, body, _ = send(emulator, path, method=method)
    assert (status, body) == (404, {"error": {"code": "404", "message": "Resource not found"}})
    assert emulator.hits == Counter({"404": 1})


def test_the_sdk_sees_another_operation_as_not_found(start: Start) -> None:
    with client_of(start()) as client, pytest.raises(RefusedByAzure) as caught:
        client.analyze_image_in_stream(io.BytesIO(picture()), visual_features=["Tags"])
    assert caught.value.response.status_code == 404


def test_what_is_for_another_vendor_is_not_claimed(start: Start) -> None:
    emulator = start()
    assert send(emulator, "/v1/images:annotate", {"Ocp-Apim-Subscription-Key": ""})[0] == 404
    assert emulator.hits == Counter({"not found": 1})


# --- keys ---


def test_a_request_needs_a_key_and_a_known_one_where_some_are(start: Start) -> None:
    emulator = start(accepted_keys={"EMULATED"})
    for key in ("", "SECRET"):
        status, body, _ = send(emulator, headers={"Ocp-Apim-Subscription-Key": key})
        assert (status, body["error"]["code"]) == (401, "401")
        assert "invalid subscription key or wrong API endpoint" in body["error"]["message"]
        assert "SECRET" not in json.dumps(body)
    assert ask(emulator).tags
    assert emulator.hits == Counter({"401": 2, "answered": 1})


def test_any_key_is_taken_where_none_are_named(start: Start) -> None:
    emulator = start()
    with client_of(emulator, key="whatever") as client:
        assert client.tag_image_in_stream(io.BytesIO(picture())).tags
    assert send(emulator, headers={"Ocp-Apim-Subscription-Key": ""})[0] == 401


# --- faults and the bill ---


@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        ("throttle", "429", 429),
        ("provisioned", "429", 429),
        ("429", "429", 429),
        ("500", "InternalServerError", 500),
        ("503", "ServiceUnavailable", 503),
        ("expired", "401", 401),
        ("image-error", "InternalServerError", 500),
    ],
)
def test_a_failure_on_demand_is_the_services_own(start: Start, fault: str, code: str, status: int) -> None:
    emulator = start(faults=[fault])
    error = refusal(emulator)
    assert (error.response.status_code, error.error.error.code) == (status, code)
    assert error.response.headers.get("Retry-After") == ("1" if status == 429 else None)
    assert ask(emulator).tags  # the script is used up
    assert emulator.hits == Counter({code: 1, "answered": 1})
    assert emulator.bill_count == 1


def test_the_rate_limit_throttles_as_azure_does(start: Start) -> None:
    emulator = start(rate_limit=0.001)
    assert ask(emulator).tags
    assert "retry after 1 second" in refusal(emulator).error.error.message
    assert emulator.hits == Counter({"answered": 1, "429": 1})


def test_a_network_that_gives_nonsense_is_an_error_of_the_service(start: Start) -> None:
    emulator = start(answerer=Answerer(lambda _: np.full(1000, np.nan), "broken"))
    assert refusal(emulator).error.error.code == "InternalServerError"
    assert emulator.bill_count == 0


def test_an_answer_is_billed_once_by_the_images_own_bytes(start: Start, tmp_path: Path) -> None:
    emulator = start(bill=tmp_path / "bill.jsonl", faults=["ok", "500"])
    image = picture()
    found = ask(emulator, image)
    refusal(emulator, image)
    (line,) = map(json.loads, (tmp_path / "bill.jsonl").read_text().splitlines())
    del line["time"]
    assert line == {
        "provider": "azure",
        "operation": "Tag",
        "sha256": hashlib.sha256(image).hexdigest(),
        "request_id": found.request_id,
        "target": "tiny",
    }


def test_two_vendors_on_one_port_do_not_meet(start: Start) -> None:
    emulator = start(providers=["aws", "azure"])
    assert ask(emulator).tags
    status, body, _ = send(
        emulator, "/", {"Ocp-Apim-Subscription-Key": "", "X-Amz-Target": "RekognitionService.DetectLabels"}
    )
    assert (status, body["__type"]) == (400, "MissingAuthenticationTokenException")
