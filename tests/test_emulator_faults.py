"""Faults, latencies and rate limits: what each provider is given, what the seed fixes, and who has to wait for whom."""

from __future__ import annotations

import json
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest
from click.testing import CliRunner

from apibench.cli import cli
from apibench.emulator import Answerer, Emulator, Faults
from apibench.emulator import answerer as answering
from apibench.emulator.answerer import Limits
from apibench.emulator.faults import FaultKind, script
from apibench.emulator.latency import Latency
from apibench.errors import ApibenchError
from tests.emulation import Start, emulators, encode, picture

TAG = "/vision/v3.2/tag"
AWS = {
    "X-Amz-Target": "RekognitionService.DetectLabels",
    "Authorization": "AWS4-HMAC-SHA256 Credential=K/20260101/r/rekognition/aws4_request, SignedHeaders=host, Signature=a",
}


@pytest.fixture
def start() -> Iterator[Start]:
    with emulators("azure") as started:
        yield started


def tag(emulator: Emulator, image: bytes | None = None) -> tuple[int, bytes, Any]:
    connection = HTTPConnection("127.0.0.1", emulator.port, timeout=20)
    try:
        headers = {"Ocp-Apim-Subscription-Key": "K", "Content-Type": "application/octet-stream"}
        connection.request("POST", TAG, image or picture(), headers)
        reply = connection.getresponse()
        return reply.status, reply.read(), reply.headers
    finally:
        connection.close()


def detect(emulator: Emulator) -> str:
    """Rekognition's refusal of an empty request, or of a fault's own."""
    connection = HTTPConnection("127.0.0.1", emulator.port, timeout=20)
    try:
        connection.request("POST", "/", b"{}", AWS)
        return str(json.loads(connection.getresponse().read())["__type"])
    finally:
        connection.close()


# --- scripts ---


def test_a_script_in_a_line() -> None:
    assert script("throttle, hang:2*2,ok*3,drop") == ["throttle", "hang:2", "hang:2", "ok", "ok", "ok", "drop"]
    assert script("ok*0") == []


@pytest.mark.parametrize("text", ["ok*", "ok*x", "ok*-1", "ok*9999999999999", "ok*1000000,drop*1"])
def test_a_wrong_count_is_named(text: str) -> None:
    with pytest.raises(ApibenchError, match=r"KIND\*COUNT"):
        script(text)


def test_a_script_comes_before_chance() -> None:
    faults = Faults.parse(["500=1"], script=["drop", "ok"])
    assert [faults.next().kind for _ in range(4)] == [
        FaultKind.DROP,
        FaultKind.OK,
        FaultKind.INTERNAL,
        FaultKind.INTERNAL,
    ]


def test_a_provider_has_its_own_script_and_the_others_share_one(start: Start) -> None:
    emulator = start(providers=["aws", "azure"], faults={"azure": ["429", "503"], "*": ["throttle"]})
    assert [tag(emulator)[0] for _ in range(3)] == [429, 503, 200]
    assert [detect(emulator) for _ in range(2)] == ["ThrottlingException", "ValidationException"]
    shared = start(providers=["aws", "azure"], faults=["500", "503"])
    assert (detect(shared), tag(shared)[0], tag(shared)[0]) == ("InternalServerError", 503, 200)


@pytest.mark.parametrize("option", ["faults", "latency", "rate_limit", "accepted_keys"])
def test_a_provider_that_is_not_there_is_named(option: str) -> None:
    with pytest.raises(ApibenchError, match="no provider acme"):
        Emulator(providers=["aws"], **{option: {"acme": ["ok"]}})  # type: ignore[arg-type]


# --- on the wire ---


def test_a_reset_is_an_rst_and_a_drop_is_not(start: Start) -> None:
    emulator = start(faults=["reset", "drop"])
    sent = f"POST {TAG} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
    ends = []
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", emulator.port), timeout=10) as connection:
            connection.sendall(sent)
            try:
                ends.append(connection.recv(100))
            except ConnectionResetError:
                ends.append(b"RST")
    assert ends == [b"RST", b""]
    assert emulator.hits == Counter({"reset": 1, "drop": 1})
    assert tag(emulator)[0] == 200


def test_a_slow_body_trickles(start: Start) -> None:
    emulator = start(faults=["slow:1"])
    sent = (
        f"POST {TAG} HTTP/1.1\r\nHost: x\r\nOcp-Apim-Subscription-Key: K\r\nContent-Type: application/octet-stream\r\n"
    )
    image = picture()
    begun, times, received = time.monotonic(), [], b""
    with socket.create_connection(("127.0.0.1", emulator.port), timeout=10) as connection:
        connection.sendall(f"{sent}Content-Length: {len(image)}\r\nConnection: close\r\n\r\n".encode() + image)
        while piece := connection.recv(1 << 16):
            times.append(time.monotonic() - begun)
            received += piece
    assert times[0] < 0.5, "the headers come at once"
    assert len(times) > 8
    assert 0.8 < times[-1] < 5
    head, _, body = received.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body)["tags"]
    assert (emulator.bill, emulator.hits) == ({"azure": 1}, {"slow": 1})


def test_an_answer_under_a_wrong_content_type_is_otherwise_right(start: Start) -> None:
    emulator = start(faults=["content-type"])
    status, body, headers = tag(emulator)
    assert (status, headers.get_all("Content-Type"), bool(json.loads(body)["tags"])) == (200, ["text/plain"], True)
    assert emulator.bill == {"azure": 1}


@pytest.mark.parametrize(("fault", "status"), [("502", 502), ("504", 504)])
def test_a_proxys_page(start: Start, fault: str, status: int) -> None:
    found, body, headers = tag(start(faults=[fault]))
    assert (found, headers["Content-Type"]) == (status, "text/html")
    assert str(status).encode() in body


@pytest.mark.parametrize("fault", ["slow:5", "content-type", "truncated"])
def test_what_is_refused_is_refused_under_any_fault_of_answers(start: Start, fault: str) -> None:
    emulator = start(faults=[fault])
    status, body, headers = tag(emulator, b"no image")
    assert (status, headers["Content-Type"]) == (400, "application/json; charset=utf-8")
    assert json.loads(body)["error"]["innererror"]["code"] == "InvalidImageFormat"
    assert emulator.bill == {}


# --- latency ---


@pytest.mark.parametrize(
    ("text", "mean", "deviation"),
    [
        (0.2, 0.2, 0.0),
        ("0.2", 0.2, 0.0),
        ("uniform:0.1,0.3", 0.2, 0.2 / 12**0.5),
        ("normal:0.2,0.03", 0.2, 0.03),
        ("lognormal:0.2,0.25", 0.2 * 2.718281828 ** (0.25**2 / 2), 0.0524),
        ("exponential:0.2", 0.2, 0.2),
    ],
)
def test_latencies_have_their_distribution_and_follow_their_seed(text: Any, mean: float, deviation: float) -> None:
    def drawn(seed: int) -> list[float]:
        latency = Latency(text, seed=seed)
        return [latency.next() for _ in range(20_000)]

    once = drawn(1)
    assert once == drawn(1)
    assert min(once) >= 0
    assert statistics.fmean(once) == pytest.approx(mean, rel=0.03)
    assert statistics.pstdev(once) == pytest.approx(deviation, rel=0.05, abs=1e-9)
    assert deviation == 0 or once != drawn(2)


def test_a_latency_is_never_below_zero_and_has_an_end() -> None:
    wide = Latency("normal:0,1")
    drawn = [wide.next() for _ in range(1000)]
    assert min(drawn) == 0
    assert drawn.count(0) > 300
    assert Latency(1e9).next() == 3600


@pytest.mark.parametrize(
    "text",
    ["", "x", "-1", "nan", "inf", "normal", "normal:0.2", "normal:0.2,0.1,3", "normal:0.2,-1", "uniform:2,1",
     "lognormal:0,1", "lognormal:1,11", "exponential:0", "gamma:1,2", "0.1,0.2"],
)  # fmt: skip
def test_a_wrong_latency_is_named(text: str) -> None:
    with pytest.raises(ApibenchError, match=r"latency .*: write SECONDS"):
        Emulator(providers=["aws"], latency=text)


def test_a_latency_is_one_providers(start: Start) -> None:
    emulator = start(providers=["aws", "azure"], latency={"azure": "0.4"})
    begun = time.monotonic()
    detect(emulator)
    assert time.monotonic() - begun < 0.3
    tag(emulator)
    assert time.monotonic() - begun > 0.4


def together(count: int, work: Any) -> float:
    begun = time.monotonic()
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda _: work(), range(count)))
    return time.monotonic() - begun


def test_nobody_waits_for_anothers_latency_over_http(start: Start) -> None:
    emulator = start(latency=0.5)
    assert together(60, lambda: tag(emulator)) < 10  # 30 s, one after the other
    assert emulator.hits == {"answered": 60}


def test_nobody_waits_for_another_call_over_grpc(start: Start) -> None:
    pytest.importorskip("clarifai_grpc")
    from apibench_adapters.rpc import loopback_channel

    emulator = start(providers=["clarifai"], faults=["hang:30"] * 60)
    with loopback_channel(emulator.grpc_url) as channel:
        call = channel.unary_unary("/clarifai.api.V2/PostModelOutputs")
        hanging = [call.future(b"", timeout=30) for _ in range(60)]
        until = time.monotonic() + 20
        while emulator.hits["hang"] < 60 and time.monotonic() < until:
            time.sleep(0.01)
        assert emulator.hits == {"hang": 60}, "all at a time"
        assert call(b"", timeout=10), "the sixty-first is answered"
        for one in hanging:
            one.cancel()


def test_a_slow_handshake_or_half_a_request_holds_up_nobody(start: Start) -> None:
    emulator = start()
    idle = [socket.create_connection(("127.0.0.1", emulator.port), timeout=10) for _ in range(20)]
    for connection in idle[:10]:
        connection.sendall(b"POST / HT")
    assert tag(emulator)[0] == 200
    for connection in idle:
        connection.close()


# --- rate limits ---


def test_a_rate_limit_is_one_providers(start: Start) -> None:
    emulator = start(providers=["aws", "azure"], rate_limit={"azure": 0.001})
    assert [tag(emulator)[0] for _ in range(2)] == [200, 429]
    assert {detect(emulator) for _ in range(5)} == {"ValidationException"}
    others = start(providers=["aws", "azure"], rate_limit={"azure": 100, "*": 0.001})
    assert [tag(others)[0] for _ in range(5)] == [200] * 5
    assert [detect(others) for _ in range(2)] == ["ValidationException", "ThrottlingException"]


@pytest.mark.parametrize("limit", [0, -1, {"aws": float("nan")}])
def test_a_wrong_rate_limit_is_refused_at_once(limit: Any) -> None:
    with pytest.raises(ApibenchError, match="rate limit"):
        Emulator(providers=["aws"], rate_limit=limit)


# --- labels without a network ---


def test_random_labels_say_so_and_are_those_of_the_pixels(start: Start) -> None:
    emulator = start(answerer=Answerer.random())
    once, again, other = (json.loads(tag(emulator, image)[1]) for image in (picture(1), picture(1), picture(2)))
    assert once["modelVersion"] == "emulated/random-labels-no-classifier"
    assert once["tags"] == again["tags"] != other["tags"]
    assert once["tags"][0]["confidence"] == pytest.approx(16 / 31)
    assert tag(emulator, b"no image")[0] == 400
    limits = Limits(("PNG", "BMP"), 1, 1000)
    first, second = (
        Answerer.random().probabilities(encode(picture_, kind), limits)
        for kind in ("PNG", "BMP")
        for picture_ in [answering._decode(answering._open(picture(7), limits))]
    )
    assert first.tolist() == second.tolist()
    assert first.sum() == pytest.approx(1)


def test_many_threads_get_the_labels_of_their_own_image(start: Start) -> None:
    emulator = start(answerer=Answerer.random())
    alone = {red: json.loads(tag(emulator, picture(red))[1])["tags"] for red in range(8)}
    barrier = threading.Barrier(8, timeout=10)

    def work(red: int) -> None:
        barrier.wait()
        for _ in range(5):
            assert json.loads(tag(emulator, picture(red))[1])["tags"] == alone[red]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert emulator.bill == {"azure": 48}


def test_the_help_names_every_kind() -> None:
    said = CliRunner().invoke(cli, ["emulate", "--help"]).output.partition("Kinds of fault")[2].split()
    assert set(said) >= {kind.value for kind in FaultKind} - {"ok"}
