"""Google's emulated wires, with the unmodified google-cloud-vision as their client, over real sockets."""

from __future__ import annotations

import base64
import hashlib
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
from apibench.query.contract import WireKind
from tests.emulation import Start, bomb, emulators, encode, picture

vision = pytest.importorskip("google.cloud.vision_v1")
grpc = pytest.importorskip("grpc")
exceptions = pytest.importorskip("google.api_core.exceptions")
cloudvision = pytest.importorskip("apibench.emulator.cloudvision")
api_key = pytest.importorskip("google.auth.api_key")
transports = pytest.importorskip("google.cloud.vision_v1.services.image_annotator.transports")

both = pytest.mark.parametrize("transport", ["grpc", "rest"])


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    with emulators("google") as started:
        yield started


def ask(emulator: Emulator, transport: str, *requests: Any, key: str | None = "EMULATED") -> Any:
    """A BatchAnnotateImagesResponse, by the SDK; without a key, the SDK sends none."""
    metadata: list[tuple[str, str]] = []
    if transport == "rest":
        credentials = (
            api_key.Credentials(key) if key else pytest.importorskip("google.auth.credentials").AnonymousCredentials()
        )
        made = transports.ImageAnnotatorRestTransport(host=emulator.url, credentials=credentials)
        made._session._max_refresh_attempts = 0
    else:
        made = transports.ImageAnnotatorGrpcTransport(channel=grpc.insecure_channel(f"127.0.0.1:{emulator.grpc_port}"))
        metadata = [("x-goog-api-key", key)] if key else []
    client = vision.ImageAnnotatorClient(transport=made)
    try:
        return client.batch_annotate_images(requests=list(requests), retry=None, timeout=10, metadata=metadata)
    finally:
        made.close()


def wanted(data: bytes | None = None, **feature: Any) -> Any:
    content = picture() if data is None else data
    return {"image": {"content": content}, "features": [{"type_": 4} | feature]}


def post(
    emulator: Emulator, body: bytes, headers: dict[str, str] | None = None, path: str = "/v1/images:annotate"
) -> Any:
    connection = HTTPConnection("127.0.0.1", emulator.port, timeout=10)
    try:
        connection.request("POST", path, body, {"X-Goog-Api-Key": "K"} if headers is None else headers)
        reply = connection.getresponse()
        text = reply.read()
    finally:
        connection.close()
    return reply.status, json.loads(text) if text.startswith(b"{") else text, reply.headers


# --- answers ---


@both
def test_an_answer_has_googles_shape_scale_and_style(start: Start, transport: str) -> None:
    emulator = start()
    (response,) = ask(emulator, transport, wanted()).responses
    labels = response.label_annotations
    assert [label.description for label in labels[:4]] == ["Golden retriever", "Retriever", "Dog", "Canine"]
    assert len(labels) == 10, "the default of maxResults"
    scores = [label.score for label in labels]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(0.8, abs=1e-4)
    assert [label.topicality for label in labels] == scores
    assert all(float(np.float32(score)) == score for score in scores)
    assert labels[0].mid == "/m/n02099601"
    assert len({label.mid for label in labels}) == len(labels)
    assert response.context.uri == "emulated/tiny"
    assert not response.error.code


def test_over_http_it_is_json_as_google_prints_it(start: Start) -> None:
    body = {
        "requests": [
            {
                "image": {"content": base64.b64encode(picture()).decode()},
                "features": [{"type": "LABEL_DETECTION", "maxResults": 2}],
            }
        ]
    }
    status, reply, headers = post(start(), json.dumps(body).encode())
    assert status == 200
    assert headers["Content-Type"] == "application/json; charset=UTF-8"
    (response,) = reply["responses"]
    assert [set(label) for label in response["labelAnnotations"]] == [{"mid", "description", "score", "topicality"}] * 2
    assert response["labelAnnotations"][0]["score"] == pytest.approx(0.8, abs=1e-4)
    assert response["context"] == {"uri": "emulated/tiny"}


@both
@pytest.mark.parametrize(("results", "expected"), [(0, 10), (1, 1), (37, 37), (500, 500)])
def test_max_results_is_honoured(start: Start, transport: str, results: int, expected: int) -> None:
    emulator = start(answerer=Answerer(lambda _: np.arange(1, 1001) / 500_500, "many"))
    (response,) = ask(emulator, transport, wanted(max_results=results)).responses
    assert len(response.label_annotations) == expected


@both
def test_sixteen_images_are_answered_in_order_and_billed_each(start: Start, transport: str, tmp_path: Path) -> None:
    bill = tmp_path / "bill.jsonl"
    emulator = start(bill=bill)
    data = [picture(15 * number + 1, 40, 0) for number in range(16)]
    data[3] = b"text"
    replies = ask(emulator, transport, *map(wanted, data)).responses
    for number, response in enumerate(replies):
        if number == 3:
            assert (response.error.code, response.error.message) == (3, "Bad image data.")
            continue
        red = 15 * number + 1
        scores = {label.description: label.score for label in response.label_annotations}
        assert scores["Golden retriever"] == pytest.approx(red / (red + 40), abs=1e-3)
    lines = [json.loads(line) for line in bill.read_text().splitlines()]
    assert [line["sha256"] for line in lines] == [hashlib.sha256(each).hexdigest() for each in data if each != b"text"]
    assert {(line["provider"], line["operation"], line["target"]) for line in lines} == {
        ("google", "BatchAnnotateImages", "tiny")
    }
    assert len({line["request_id"] for line in lines}) == 1
    assert emulator.hits == Counter({"answered": 1})


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Golden Retriever", "Golden retriever"),
        ("CD Player", "CD player"),
        ("Portable CD Player", "Portable CD player"),
        ("Dog", "Dog"),
        ("T-Shirt", "T-Shirt"),
        ("Bird of Prey", "Bird of prey"),
    ],
)
def test_names_are_in_sentence_case(name: str, written: str) -> None:
    assert cloudvision.sentence(name) == written


# --- refusals ---

PLAIN = Image.new("RGB", (90, 90), (200, 10, 10))
TAKEN = ["JPEG", "PNG", "GIF", "BMP", "WEBP", "ICO", "TIFF"]


@pytest.mark.parametrize("image_format", TAKEN)
def test_the_documented_formats_are_taken(start: Start, image_format: str) -> None:
    (response,) = ask(start(), "grpc", wanted(encode(PLAIN, image_format))).responses
    assert response.label_annotations, response.error.message


REFUSED = [
    ("text", b"not an image", "Bad image data."),
    ("cut", picture()[:60], "Bad image data."),
    ("another format", encode(PLAIN, "PPM"), "Bad image data."),
    ("76 megapixels", bomb(8718), "Image too large. Please limit to 75 megapixels."),
    ("a bomb", bomb(30_000), "Image too large. Please limit to 75 megapixels."),
    ("above 20 MB", picture().ljust(20 * 1024 * 1024 + 1, b"\0"), "Image size too large."),
]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("data", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_an_image_is_refused_by_an_error_of_its_own(start: Start, data: bytes, message: str) -> None:
    emulator = start()
    (response,) = ask(emulator, "grpc", wanted(data)).responses
    assert response.error.code == 3
    assert message in response.error.message
    assert not response.label_annotations
    assert emulator.hits == Counter({"INVALID_ARGUMENT": 1})
    assert emulator.bill_count == 0


def test_the_largest_image_is_taken(start: Start) -> None:
    (response,) = ask(start(), "grpc", wanted(picture().ljust(20 * 1024 * 1024, b"\0"))).responses
    assert response.label_annotations


@both
@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        ({"features": [{"type_": 4}]}, 3, "image and features"),
        ({"image": {"content": b"x"}}, 3, "image and features"),
        ({"image": {"source": {"image_uri": "gs://a/b"}}, "features": [{"type_": 4}]}, 12, "not emulated"),
        (wanted(type_=1), 12, "not emulated"),
        (wanted(max_results=-1), 3, "no results"),
        (wanted(model="builtin/nightly"), 3, "model"),
    ],
)
def test_what_is_not_emulated_or_not_valid_is_refused(
    start: Start, transport: str, request_: Any, code: int, message: str
) -> None:
    (response,) = ask(start(), transport, request_).responses
    assert response.error.code == code
    assert message in response.error.message


@both
def test_seventeen_images_are_too_many_and_none_is_none(start: Start, transport: str) -> None:
    emulator = start()
    with pytest.raises(
        exceptions.InvalidArgument if transport == "grpc" else exceptions.BadRequest,
        match="Too many images per request",
    ):
        ask(emulator, transport, *[wanted(b"x")] * 17)
    assert not ask(emulator, transport).responses


def test_a_json_request_is_at_most_ten_megabytes(start: Start) -> None:
    emulator = start()
    with pytest.raises(exceptions.BadRequest, match="Request payload size exceeds the limit: 10485760 bytes"):
        ask(emulator, "rest", wanted(bytes(8 * 1024 * 1024)))
    (response,) = ask(emulator, "grpc", wanted(picture().ljust(8 * 1024 * 1024, b"\0"))).responses
    assert response.label_annotations, "which is a limit of JSON"


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"requests": 1}', b'{"other": []}', b"[" * 100_000])
def test_a_body_that_is_no_request_is_invalid(start: Start, body: bytes) -> None:
    status, reply, _ = post(start(), body)
    assert (status, reply["error"]["code"], reply["error"]["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert "Invalid JSON" in reply["error"]["message"]


def test_a_message_that_is_no_request_is_invalid(start: Start) -> None:
    channel = grpc.insecure_channel(f"127.0.0.1:{start().grpc_port}")
    call = channel.unary_unary("/google.cloud.vision.v1.ImageAnnotator/BatchAnnotateImages")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\x0a\xff", metadata=[("x-goog-api-key", "K")])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    channel.close()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/images:annotate?key=K&$alt=json;enum-encoding=int", 200),
        ("/v1/projects/p/images:annotate", 200),
        ("/v1/projects/p/locations/eu/images:annotate", 200),
        ("/v1/locations/eu/images:annotate", 404),
        ("/v1/images:asyncBatchAnnotate", 404),
        ("/v1/files:annotate", 404),
        ("/v2/images:annotate", 404),
    ],
)
def test_paths(start: Start, path: str, status: int) -> None:
    assert post(start(), b"{}", path=path)[0] == status


def test_another_method_is_not_emulated(start: Start) -> None:
    emulator = start()
    channel = grpc.insecure_channel(f"127.0.0.1:{emulator.grpc_port}")
    for path in (
        "/google.cloud.vision.v1.ImageAnnotator/BatchAnnotateFiles",
        "/google.cloud.vision.v1.ProductSearch/GetProduct",
    ):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(path)(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    channel.close()
    assert emulator.hits == Counter({"UNIMPLEMENTED": 1, "not found": 1})


# --- keys ---


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({"X-Goog-Api-Key": "GOOD"}, "/v1/images:annotate"),
        ({}, "/v1/images:annotate?key=GOOD"),
        ({"Authorization": "Bearer GOOD"}, "/v1/images:annotate"),
    ],
)
def test_a_key_is_taken_in_each_of_its_places(start: Start, headers: dict[str, str], path: str) -> None:
    assert post(start(accepted_keys={"GOOD"}), b"{}", headers, path)[0] == 200
    status, body, _ = post(start(accepted_keys={"OTHER"}), b"{}", headers, path)
    assert status == (401 if "Authorization" in headers else 400)
    assert body["error"]["status"] == ("UNAUTHENTICATED" if "Authorization" in headers else "INVALID_ARGUMENT")
    (info,) = body["error"]["details"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert info["reason"] in ("API_KEY_INVALID", "ACCESS_TOKEN_TYPE_UNSUPPORTED")
    assert "GOOD" not in json.dumps(body)


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Basic abc"}, {"Authorization": "Bearer "}, {"X-Goog-Api-Key": ""}]
)
def test_without_a_key_nothing_is_answered(start: Start, headers: dict[str, str]) -> None:
    status, body, _ = post(start(), b"{}", headers)
    assert (status, body["error"]["status"]) == (403, "PERMISSION_DENIED")
    assert "unregistered callers" in body["error"]["message"]


def test_the_sdk_sees_a_missing_and_a_wrong_key_over_both_wires(start: Start) -> None:
    emulator = start(accepted_keys={"GOOD"})
    for transport in ("grpc", "rest"):
        with pytest.raises(exceptions.Forbidden, match="unregistered callers"):
            ask(emulator, transport, wanted(), key=None)
        with pytest.raises(exceptions.BadRequest) as caught:
            ask(emulator, transport, wanted(), key="WRONG")
        assert caught.value.reason == "API_KEY_INVALID"
        assert ask(emulator, transport, wanted(), key="GOOD").responses[0].label_annotations
    assert emulator.bill_count == 2


# --- failures ---


@both
@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ("throttle", exceptions.TooManyRequests, "RESOURCE_EXHAUSTED"),
        ("provisioned", exceptions.TooManyRequests, "RESOURCE_EXHAUSTED"),
        ("429", exceptions.TooManyRequests, "RESOURCE_EXHAUSTED"),
        ("500", exceptions.InternalServerError, "INTERNAL"),
        ("503", exceptions.ServiceUnavailable, "UNAVAILABLE"),
        ("expired", exceptions.BadRequest, "INVALID_ARGUMENT"),
    ],
)
def test_a_failure_on_demand_is_the_services_own(
    start: Start, transport: str, fault: str, error: Any, code: str
) -> None:
    emulator = start(faults=[fault])
    with pytest.raises(error) as caught:
        ask(emulator, transport, wanted())
    assert emulator.hits == Counter({code: 1})
    if code == "RESOURCE_EXHAUSTED":
        assert caught.value.reason == "RATE_LIMIT_EXCEEDED"
        assert caught.value.domain == "googleapis.com"
        assert caught.value.metadata["quota_unit"] == "1/min/{project}"
    details = [str(detail) for detail in caught.value.details]
    assert any("retry" in detail for detail in details) == (fault == "429")
    assert emulator.bill_count == 0
    assert ask(emulator, transport, wanted()).responses[0].label_annotations


@both
def test_images_fail_on_demand_inside_a_success(start: Start, transport: str) -> None:
    emulator = start(faults=["image-error", "bad-image"])
    requests = [wanted(picture(red)) for red in (10, 20, 30)]
    first, *others = ask(emulator, transport, *requests).responses
    assert (first.error.code, first.error.message) == (13, "Internal error encountered.")
    assert all(response.label_annotations and not response.error.code for response in others)
    assert emulator.bill == {"google": 2}
    refused = ask(emulator, transport, *requests).responses
    assert [(response.error.code, response.error.message) for response in refused] == [(3, "Bad image data.")] * 3
    assert emulator.bill == {"google": 2}
    assert emulator.hits == Counter({"answered": 1, "INVALID_ARGUMENT": 1})


@both
def test_each_feature_of_an_image_is_billed(start: Start, transport: str) -> None:
    emulator = start()
    request = wanted() | {"features": [{"type_": 4, "max_results": 1}, {"type_": 4, "max_results": 3}]}
    (response,) = ask(emulator, transport, request).responses
    assert len(response.label_annotations) == 3
    assert emulator.bill == {"google": 2}


def test_a_429_over_http_says_how_long_to_wait(start: Start) -> None:
    status, body, headers = post(start(faults=["429"]), b"{}")
    assert (status, headers["Retry-After"]) == (429, "1")
    assert body["error"]["details"][1] == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}


def test_there_are_two_wires_of_one_vendor() -> None:
    assert [(wire.provider, wire.kind) for wire in cloudvision.wires(None)] == [
        ("google", WireKind.HTTP),
        ("google", WireKind.GRPC),
    ]
