"""Azure Image Analysis 4.0, emulated: by hand over real sockets, and with the unmodified SDK where it is installed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apibench.emulator import Emulator
from tests.emulation import Start, bomb, emulators, encode, picture

PATH = "/computervision/imageanalysis:analyze"
QUERY = "api-version=2023-10-01&features=tags"
MIB = 1024 * 1024


@pytest.fixture
def start() -> Iterator[Start]:
    with emulators("azure") as started:
        yield started


def send(
    emulator: Emulator,
    image: bytes | None = None,
    query: str = QUERY,
    headers: dict[str, str] | None = None,
    path: str = PATH,
    method: str = "POST",
) -> tuple[int, Any, Any]:
    sent = {"Ocp-Apim-Subscription-Key": "KEY", "Content-Type": "application/octet-stream"} | (headers or {})
    connection = HTTPConnection("127.0.0.1", emulator.port, timeout=10)
    try:
        body = picture() if image is None else image
        connection.request(method, f"{path}?{query}", body, {name: value for name, value in sent.items() if value})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read()), reply.headers
    finally:
        connection.close()


def test_an_answer_has_the_services_shape(start: Start, tmp_path: Path) -> None:
    emulator = start(bill=tmp_path / "bill.jsonl")
    status, body, headers = send(emulator)
    assert status == 200
    assert set(body) == {"modelVersion", "metadata", "tagsResult"}
    assert body["modelVersion"] == "emulated/tiny"
    assert body["metadata"] == {"width": 96, "height": 96}
    tags = body["tagsResult"]["values"]
    assert [tag["name"] for tag in tags[:2]] == ["golden retriever", "retriever"]
    assert tags[0]["confidence"] == pytest.approx(0.8, abs=1e-3)
    assert {frozenset(tag) for tag in tags} == {frozenset({"name", "confidence"})}
    (line,) = map(json.loads, (tmp_path / "bill.jsonl").read_text().splitlines())
    assert (line["provider"], line["operation"], line["request_id"]) == ("azure", "Analyze", headers["apim-request-id"])
    assert line["sha256"] == hashlib.sha256(picture()).hexdigest()
    assert emulator.hits == Counter({"answered": 1})


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "ICO", "TIFF", "MPO"])
def test_the_documented_formats_are_taken(start: Start, kind: str) -> None:
    status, body, _ = send(start(), encode(Image.new("RGB", (64, 64), (0, 255, 0)), kind))
    assert (status, body["tagsResult"]["values"][0]["name"]) == (200, "labrador retriever")


LETTER = Image.new("RGB", (100, 100))
REFUSED = [
    ("text", b"not an image", "InvalidImageFormat"),
    ("truncated", picture()[:60], "InvalidImageFormat"),
    ("PPM", encode(LETTER, "PPM"), "InvalidImageFormat"),
    ("too narrow", picture(size=(50, 200)), "InvalidImageSize"),
    ("too wide", picture(size=(16_000, 51)), "InvalidImageSize"),
    ("a bomb", bomb(30_000), "InvalidImageSize"),
    ("nothing", b"", None),
    ("too many bytes", picture().ljust(20 * MIB, b"\0"), None),
]


@pytest.mark.parametrize(("image", "inner"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_an_image_is_refused_as_azure_does(start: Start, image: bytes, inner: str | None) -> None:
    emulator = start()
    status, body, _ = send(emulator, image)
    assert (status, body["error"]["code"]) == (400, "InvalidRequest")
    assert body["error"].get("innererror", {}).get("code") == inner
    if inner is None:
        assert body["error"]["message"] == "The image size is not allowed to be zero or larger than 20971520 bytes."
    assert emulator.bill == {}


def test_images_at_the_limits_are_taken(start: Start) -> None:
    emulator = start()
    for image in (picture(size=(51, 51)), picture(size=(15_999, 51)), picture().ljust(20 * MIB - 1, b"\0")):
        assert send(emulator, image)[0] == 200
    assert emulator.bill == {"azure": 3}


@pytest.mark.parametrize(
    ("query", "status", "inner"),
    [
        ("features=tags", 404, None),
        ("api-version=2022-10-12-preview&features=tags", 404, None),
        ("api-version=2023-10-01", 400, "InvalidArgument"),
        ("api-version=2023-10-01&features=", 400, "InvalidArgument"),
        ("api-version=2023-10-01&features=tags,mood", 400, "InvalidArgument"),
        ("api-version=2023-10-01&features=tags,caption", 400, "InvalidArgument"),
        (QUERY + "&model-name=mine", 400, "InvalidArgument"),
        (QUERY + "&language=xx", 400, "NotSupportedLanguage"),
        (QUERY + "&language=en&gender-neutral-caption=true", 200, None),
        ("api-version=2024-02-01&features=Tags", 200, None),
    ],
)
def test_the_query_is_checked(start: Start, query: str, status: int, inner: str | None) -> None:
    found, body, _ = send(start(), query=query)
    assert (found, body.get("error", {}).get("innererror", {}).get("code")) == (status, inner)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"path": PATH + "/"}, 404),
        ({"path": "/computervision/retrieval:vectorizeImage"}, 404),
        ({"method": "GET"}, 404),
        ({"headers": {"Content-Type": "application/json"}}, 415),
        ({"headers": {"Ocp-Apim-Subscription-Key": ""}}, 401),
    ],
)
def test_what_is_not_there_is_refused_in_the_vendors_form(start: Start, change: Any, status: int) -> None:
    found, body, headers = send(start(), **change)
    assert (found, set(body)) == (status, {"error"})
    assert headers["apim-request-id"]


@pytest.mark.parametrize(
    ("fault", "status", "code", "wait"),
    [
        ("throttle", 429, "429", "1"),
        ("429", 429, "429", "1"),
        ("500", 500, "InternalServerError", None),
        ("503", 503, "ServiceUnavailable", None),
        ("expired", 401, "401", None),
        ("image-error", 500, "InternalServerError", None),
    ],
)
def test_a_failure_on_demand(start: Start, fault: str, status: int, code: str, wait: str | None) -> None:
    emulator = start(faults=[fault])
    found, body, headers = send(emulator)
    assert (found, body["error"]["code"], headers["Retry-After"]) == (status, code, wait)
    assert (send(emulator)[0], emulator.bill) == (200, {"azure": 1})


def test_3_2_stays_beside_it(start: Start) -> None:
    emulator = start(accepted_keys={"KEY"})
    assert send(emulator, path="/vision/v3.2/tag", query="")[1]["tags"][0]["name"] == "golden retriever"
    assert send(emulator, headers={"Ocp-Apim-Subscription-Key": "OTHER"})[0] == 401


# --- with the SDK ---


class Asking:
    """The SDK, one request a call."""

    def __init__(self) -> None:
        self.client: Any = pytest.importorskip("azure.ai.vision.imageanalysis").ImageAnalysisClient
        self.credential: Any = pytest.importorskip("azure.core.credentials").AzureKeyCredential
        self.errors: Any = pytest.importorskip("azure.core.exceptions")

    def __call__(self, emulator: Emulator, image: bytes | None = None, key: str = "KEY", **options: Any) -> Any:
        with self.client(emulator.url, self.credential(key), retry_total=0, proxies={}, **options) as client:
            return client.analyze(image_data=picture() if image is None else image, visual_features=["tags"])


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Asking:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return Asking()


def test_the_sdk_reads_every_field(start: Start, ask: Asking) -> None:
    found = ask(start(), encode(Image.new("RGB", (120, 60), (0, 0, 255)), "JPEG"))
    assert (found.metadata.width, found.metadata.height, found.model_version) == (120, 60, "emulated/tiny")
    assert found.tags.list[0].name == "pizza"


def test_the_sdk_sees_refusals(start: Start, ask: Asking) -> None:
    emulator = start(accepted_keys={"KEY"})
    with pytest.raises(ask.errors.HttpResponseError) as caught:
        ask(emulator, b"no image")
    assert caught.value.error.innererror["code"] == "InvalidImageFormat"
    with pytest.raises(ask.errors.ClientAuthenticationError):
        ask(emulator, key="OTHER")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("throttle", "HttpResponseError"),
        ("500", "HttpResponseError"),
        ("502", "HttpResponseError"),
        ("503", "HttpResponseError"),
        ("504", "HttpResponseError"),
        ("bad-image", "HttpResponseError"),
        ("expired", "ClientAuthenticationError"),
        ("hang:5", "ServiceResponseTimeoutError"),
        ("drop", "ServiceResponseError"),
        ("reset", "ServiceResponseError"),
        ("drop-after", "ServiceResponseError"),
        ("truncated", "IncompleteReadError"),
        ("malformed", "DecodeError"),
    ],
)
def test_the_sdk_meets_each_fault(start: Start, ask: Asking, fault: str, error: str) -> None:
    emulator = start(faults=[fault])
    with pytest.raises(getattr(ask.errors, error)):
        ask(emulator, read_timeout=0.5)
    assert emulator.hits.total() == 1
    assert ask(emulator).tags.list


@pytest.mark.parametrize("fault", ["empty", "html"])
def test_the_sdk_stumbles_over_a_200_that_is_no_json(start: Start, ask: Asking, fault: str) -> None:
    with pytest.raises((ValueError, ask.errors.AzureError)):
        ask(start(faults=[fault]))


def test_the_sdk_waits_for_a_slow_answer(start: Start, ask: Asking) -> None:
    assert ask(start(faults=["slow:0.5"])).tags.list
