"""The AWS adapter: every reply becomes labels or a typed error; botocore itself never sends twice; no key gets out."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apibench_adapters.aws import AwsProvider, adapter, parse, redact
from botocore.awsrequest import AWSResponse
from botocore.exceptions import HTTPClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from apibench.query.contract import Answer, EncodedImage, ErrorKind, Outcome, ProviderError, ProviderOptions
from apibench.query.engine import Engine, Question
from apibench.query.store import Key, ResponseStore, canonical, labels_to_json
from tests.fakes import QUICK, BotocoreBody
from tests.servers import Respond, http, http_server, reset

IMAGE = EncodedImage(b"\x89PNG pretend", "0" * 64)
# Synthetic, in the shape that the API reference documents.
GOOD = {
    "Labels": [
        {
            "Name": "Golden Retriever",
            "Confidence": 98.5,
            "Instances": [],
            "Parents": [{"Name": "Dog"}, {"Name": "Animal"}],
        },
        {"Name": "Dog", "Confidence": 98.5, "Parents": [{"Name": "Animal"}]},
        {"Name": "Grass", "Confidence": 100.00001, "Parents": []},
    ],
    "LabelModelVersion": "3.0",
}
KEY_ID, SECRET, TOKEN = "AKIA" + "ABCDEFGH12345678", "s3cr3t/" + "k" * 33, "tok" + "en" * 40


@pytest.fixture(autouse=True)
def no_real_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test can find a real key, or reach a real host: profiles are gone, and the proxy is a closed port."""
    for name in (
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_REKOGNITION",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)


def hook(provider: AwsProvider, answer: Callable[..., AWSResponse]) -> None:
    """Answer in the socket's place, by botocore's own hook."""
    events: Any = provider._client.meta.events
    events.register("before-send.rekognition", answer)


def response(status: int, headers: Any, data: bytes) -> AWSResponse:
    return AWSResponse("", status, headers, BotocoreBody(data))


def recorded(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Outcome:
    """The outcome of a recorded response, through boto3 whole but for the socket."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    provider = adapter.create(ProviderOptions())
    reply = {"x-amzn-RequestId": "req-1", "Content-Type": "application/x-amz-json-1.1"} | (headers or {})
    hook(provider, lambda **_: response(status, reply, data))
    (outcome,) = provider.label([IMAGE])
    return outcome


def test_labels_scores_parents_and_the_raw_body() -> None:
    outcome = recorded(GOOD)
    assert isinstance(outcome, Answer)
    assert outcome.raw == json.dumps(GOOD).encode()
    assert outcome.request_id == "req-1"
    assert outcome.parsed.model_version == "3.0"
    assert [(x.name, x.score, x.parents) for x in outcome.parsed.labels] == [
        ("Golden Retriever", 0.985, ("Dog", "Animal")),
        ("Dog", 0.985, ("Animal",)),
        ("Grass", 1.0, ()),
    ]
    assert adapter.parse(outcome.raw) == outcome.parsed


MALFORMED = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"<html><body>proxy login</body></html>",
    b"\xff\xfe\x00",
    b"{}",
    b'{"Labels": null}',
    b'{"Labels": {}}',
    b'{"Labels": ""}',
    b'{"Labels": [], "LabelModelVersion": 3}',
    b'{"Labels": [null]}',
    b'{"Labels": [{"Name": "Dog"}]}',
    b'{"Labels": [{"Name": 7, "Confidence": 1}]}',
    b'{"Labels": [{"Name": "", "Confidence": 1}]}',
    b'{"Labels": [{"Name": "\\ud800", "Confidence": 1}]}',
    b'{"Labels": [{"Name": "Dog", "Confidence": "abc"}]}',
    b'{"Labels": [{"Name": "Dog", "Confidence": NaN}]}',
    b'{"Labels": [{"Name": "Dog", "Confidence": 101}]}',
    b'{"Labels": [{"Name": "Dog", "Confidence": 1e999}]}',
    b'{"Labels": [{"Name": "Dog", "Confidence": 1' + b"0" * 400 + b"}]}",
    b'{"Labels": [{"Name": "Dog", "Confidence": -1}]}',
    b'{"Labels": [{"Name": "Dog", "Confidence": true}]}',
    b'{"Labels": [{"Name": "Dog", "Confidence": 1, "Parents": [{}]}]}',
    b'{"Labels": [{"Name": "Dog", "Confidence": 1, "Parents": {}}]}',
    json.dumps(GOOD).encode()[:-9],
    b"[" * 100_000,
]


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("body", MALFORMED, ids=[str(body[:40]) for body in MALFORMED])
def test_a_success_without_readable_labels_is_a_protocol_error(body: bytes) -> None:
    """boto3 takes most of these for a reply without labels, and says nothing."""
    outcome = recorded(body)
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.uncertain) == (ErrorKind.PROTOCOL, True), "it may have been billed"


def test_no_labels_at_all_is_an_answer() -> None:
    outcome = recorded({"Labels": [], "LabelModelVersion": "3.0"})
    assert isinstance(outcome, Answer)
    assert outcome.parsed.labels == ()


ERRORS = [
    ("ThrottlingException", 400, ErrorKind.THROTTLED),
    ("ProvisionedThroughputExceededException", 400, ErrorKind.THROTTLED),
    ("Unheard", 429, ErrorKind.THROTTLED),
    ("InternalServerError", 500, ErrorKind.TRANSIENT),
    ("ServiceUnavailable", 503, ErrorKind.TRANSIENT),
    ("InvalidImageFormatException", 400, ErrorKind.REJECTED),
    ("ImageTooLargeException", 400, ErrorKind.REJECTED),
    ("InvalidParameterException", 400, ErrorKind.REJECTED),
    ("AccessDeniedException", 400, ErrorKind.CREDENTIALS),
    ("UnrecognizedClientException", 400, ErrorKind.CREDENTIALS),
    ("InvalidSignatureException", 400, ErrorKind.CREDENTIALS),
    ("ExpiredTokenException", 400, ErrorKind.CREDENTIALS),
    ("Unheard", 403, ErrorKind.CREDENTIALS),
    ("Unheard", 407, ErrorKind.CREDENTIALS),
    ("Unheard", 408, ErrorKind.TRANSIENT),
    ("Unheard", 413, ErrorKind.REJECTED),
    ("LimitExceededException", 400, ErrorKind.QUOTA),
    ("SubscriptionRequiredException", 400, ErrorKind.QUOTA),
    ("Unheard", 400, ErrorKind.PROTOCOL),
    ("Unheard", 302, ErrorKind.PROTOCOL),
]


@pytest.mark.parametrize(("code", "status", "kind"), ERRORS, ids=[f"{code}-{status}" for code, status, _ in ERRORS])
def test_the_vendors_errors_have_kinds(code: str, status: int, kind: ErrorKind) -> None:
    body = {"__type": code, "Message": "about \x1b[31mthis\nimage"}
    outcome = recorded(body, status, {"Retry-After": "2.5"})
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.code, outcome.status, outcome.uncertain) == (kind, code, status, False)
    assert outcome.retry_after == 2.5
    assert outcome.message == f"{code}: about [31mthis image"
    assert outcome.raw == json.dumps(body).encode()


@pytest.mark.parametrize("slash", ["/", "\\/"])
def test_an_error_that_repeats_a_key_is_kept_without_it(slash: str) -> None:
    """AWS answers a wrong signature with the request as it should have been signed, session token and all."""
    token = "IQoJ/b3Jp" * 9
    text = f"The Canonical String should have been 'POST x-amz-security-token:{token}' by {KEY_ID} with {SECRET}"
    body = json.dumps({"__type": "InvalidSignatureException", "message": text}).replace("/", slash)
    outcome = recorded(body.encode(), 400)
    assert isinstance(outcome, ProviderError)
    assert outcome.kind is ErrorKind.CREDENTIALS
    assert outcome.raw is not None
    assert b"InvalidSignatureException" in outcome.raw
    for secret in (KEY_ID, SECRET, token):
        for found in (outcome.message, outcome.raw.decode(), str(outcome.code)):
            assert secret not in found
            assert secret.replace("/", "\\/") not in found


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b'{"__type": 7}', 400, ErrorKind.PROTOCOL),
        (b'{"__type": ["ThrottlingException"]}', 500, ErrorKind.TRANSIENT),
        (b"[]", 503, ErrorKind.TRANSIENT),
        (b"[" * 100_000, 500, ErrorKind.TRANSIENT),
        (b"\xff\xfe", 429, ErrorKind.THROTTLED),
        (b"", 403, ErrorKind.CREDENTIALS),
        (b'{"message": {"a": 1}}', 502, ErrorKind.TRANSIENT),
    ],
)
def test_an_error_that_boto3_cannot_read_is_judged_by_its_status(body: bytes, status: int, kind: ErrorKind) -> None:
    outcome = recorded(body, status)
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.status, outcome.raw) == (kind, status, body)
    assert outcome.uncertain == (status >= 500), "a gateway's error does not say what the service behind it did"


def test_labels_that_can_be_read_are_an_answer_even_where_boto3_stumbles() -> None:
    """boto3 raises a TypeError here; the labels are there, and paid for."""
    body = json.dumps(GOOD | {"ImageProperties": 7}).encode()
    outcome = recorded(body)
    assert isinstance(outcome, Answer), outcome
    assert outcome.raw == body


@pytest.mark.parametrize("after", ["soon", "-1", "nan", "inf", "Tue, 24 Nov 2026 03:00:00 GMT"])
def test_a_retry_after_that_is_no_number_of_seconds_is_left_out(after: str) -> None:
    outcome = recorded({"__type": "ThrottlingException"}, 400, {"Retry-After": after})
    assert isinstance(outcome, ProviderError)
    assert outcome.retry_after is None


def test_an_html_error_page_is_transient() -> None:
    outcome = recorded(b"<html>Bad gateway</html>", 502)
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.status) == (ErrorKind.TRANSIENT, 502)


# --- over real sockets: one hit for one call, whatever happens ---


def emulated(url: str, timeout: float = 5.0) -> AwsProvider:
    return adapter.create(ProviderOptions(endpoint=url, emulated=True, timeout=timeout))


FAULTS: list[tuple[str, Respond, ErrorKind, bool]] = [
    ("throttle", http("400 Bad Request", b'{"__type": "ThrottlingException"}'), ErrorKind.THROTTLED, False),
    ("429", http("429 Too Many Requests", b"{}"), ErrorKind.THROTTLED, False),
    ("500", http("500 Internal Server Error", b'{"__type": "InternalServerError"}'), ErrorKind.TRANSIENT, False),
    ("503", http("503 Service Unavailable", b"<html>"), ErrorKind.TRANSIENT, True),
    ("drop", lambda connection: None, ErrorKind.TRANSIENT, True),
    ("reset", reset, ErrorKind.TRANSIENT, True),
    ("hang", lambda connection: threading.Event().wait(2), ErrorKind.TRANSIENT, True),
    (
        "half a body",
        lambda c: c.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"Lab'),
        ErrorKind.PROTOCOL,
        True,
    ),
    ("no http", lambda c: c.sendall(b"220 mail.example ESMTP\r\n"), ErrorKind.TRANSIENT, True),
    ("malformed", http("200 OK", b"{{{{"), ErrorKind.PROTOCOL, True),
    ("empty", http("200 OK", b""), ErrorKind.PROTOCOL, True),
]


@pytest.mark.parametrize(("reply", "kind", "uncertain"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_the_sdk_sends_once_whatever_comes_back(reply: Respond, kind: ErrorKind, uncertain: bool) -> None:
    with http_server(reply) as (url, hits):
        (outcome,) = emulated(url, timeout=0.5).label([IMAGE])
        assert isinstance(outcome, ProviderError)
        assert (outcome.kind, outcome.uncertain) == (kind, uncertain)
        assert len(hits) == 1


def test_a_refused_connection_is_transient_and_certain() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (outcome,) = emulated(f"http://127.0.0.1:{port}").label([IMAGE])
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.uncertain) == (ErrorKind.TRANSIENT, False)


def test_emulated_uses_fake_keys_and_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "missing")
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nonexistent")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "seven")
    monkeypatch.setenv("AWS_RETRY_MODE", "forever")
    monkeypatch.setenv("AWS_DEFAULTS_MODE", "odd")
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    monkeypatch.setenv("AWS_USE_DUALSTACK_ENDPOINT", "true")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "odd")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "no such region!")
    with http_server(http("200 OK", json.dumps(GOOD).encode())) as (url, hits):
        provider = emulated(url)
        (outcome,) = provider.label([IMAGE])
        assert isinstance(outcome, Answer), outcome
    assert b"Credential=EMULATED/" in hits[0]
    for secret in (KEY_ID, SECRET, TOKEN):
        assert secret.encode() not in hits[0]


@pytest.mark.parametrize(
    "endpoint", [None, "http://rekognition.example", "http://10.0.0.1", "http://127.0.0.1.example"]
)
def test_emulated_calls_never_leave_the_machine(endpoint: str | None) -> None:
    assert "emulator" in refusal(lambda: adapter.create(ProviderOptions(endpoint=endpoint, emulated=True))).message


def test_max_labels_and_min_confidence_are_sent_and_are_the_settings() -> None:
    sent: list[dict[str, object]] = []
    provider = adapter.create(ProviderOptions(settings={"MaxLabels": 3}))

    def catch(request: object, **_: object) -> AWSResponse:
        sent.append(json.loads(request.body))  # type: ignore[attr-defined]
        return response(200, {}, json.dumps(GOOD).encode())

    hook(provider, catch)
    provider.label([IMAGE])
    assert {key: value for key, value in sent[0].items() if key != "Image"} == {"MaxLabels": 3, "MinConfidence": 1.0}
    assert provider.settings == {"MaxLabels": 3, "MinConfidence": 1.0}


@pytest.mark.parametrize(
    "wrong", [{"MaxLabel": 3}, {"MaxLabels": 0}, {"MaxLabels": "x"}, {"MinConfidence": 101}, {"MaxLabels": True}]
)
def test_wrong_settings_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        adapter.settings(ProviderOptions(settings=wrong))


# --- credentials ---


def refusal(make: Callable[[], object]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        make()
    assert caught.value.kind is ErrorKind.CREDENTIALS
    return caught.value


def test_no_credentials_is_one_line_that_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    error = refusal(lambda: adapter.create(ProviderOptions()))
    assert "AWS_ACCESS_KEY_ID" in error.message


def test_no_region_and_a_missing_profile_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert "AWS_DEFAULT_REGION" in refusal(lambda: adapter.create(ProviderOptions())).message
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in refusal(lambda: adapter.create(ProviderOptions())).message


def test_half_a_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    refusal(lambda: adapter.create(ProviderOptions()))


def test_a_key_with_a_line_break_is_not_told_to_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied with its line end, a key makes an illegal header, and Python's message repeats the header."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID + "\n")
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN + "\n")
    provider = adapter.create(ProviderOptions())

    def refuse(request: Any, **_: object) -> AWSResponse:
        headers = [bytes(request.headers[name]) for name in ("Authorization", "X-Amz-Security-Token")]
        assert KEY_ID.encode() in headers[0]
        assert TOKEN.encode() in headers[1]
        raise HTTPClientError(error=ValueError(f"Invalid header value {headers}"))

    hook(provider, refuse)
    (outcome,) = provider.label([IMAGE])
    assert isinstance(outcome, ProviderError)
    assert "Invalid header value" in outcome.message
    for secret in (KEY_ID, SECRET, TOKEN):
        assert secret not in outcome.message


def test_a_region_may_be_named_as_in_awss_newer_sdks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_REGION", "ap-south-1")
    assert adapter.create(ProviderOptions()).host == "rekognition.ap-south-1.amazonaws.com"


def test_no_key_ends_up_in_a_store(tmp_path: Path) -> None:
    """Through the engine into the store: an answer, an error that repeats the keys, and a reply that is not readable."""
    provider = adapter.create(ProviderOptions())
    said = json.dumps({"__type": "ThrottlingException", "message": f"x-amz-security-token:{TOKEN} {KEY_ID} {SECRET}"})
    script = [(400, said.encode()), (200, b"<html>"), (200, json.dumps(GOOD).encode())]
    hook(provider, lambda **_: response(script[0][0], {}, script.pop(0)[1]))
    key = Key("default", "aws", "live", canonical(provider.settings))
    with ResponseStore.open(tmp_path / "s.sqlite") as store:
        report = Engine(provider, store, key, policy=QUICK).run([Question(IMAGE.sha256, "x", lambda: IMAGE.data)])
        assert (report.answered, report.sent, report.uncertain) == (1, 3, 1)
        ((raw, labels),) = store._connection.execute("SELECT raw, labels FROM responses").fetchall()
        assert raw == json.dumps(GOOD).encode()
        assert labels == labels_to_json(parse(raw).labels), "what is stored can be read again from what was paid for"
    held = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"ThrottlingException" in held
    for secret in (KEY_ID, SECRET, TOKEN, "AWS4-HMAC"):
        assert secret.encode() not in held


def test_real_keys_do_not_go_over_plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "https" in refusal(lambda: adapter.create(ProviderOptions(endpoint="http://127.0.0.1:9"))).message
    monkeypatch.setenv("AWS_ENDPOINT_URL_REKOGNITION", "http://rekognition.example")
    assert "https" in refusal(lambda: adapter.create(ProviderOptions())).message


def test_the_host_is_the_one_the_sdk_resolved() -> None:
    assert adapter.create(ProviderOptions()).host == "rekognition.eu-central-1.amazonaws.com"


@given(st.text(max_size=40), st.sampled_from([KEY_ID, SECRET, TOKEN]), st.text(max_size=40))
def test_the_redactor_lets_no_key_through(before: str, secret: str, after: str) -> None:
    assert secret not in redact(f"{before} {secret} {after}")


@settings(max_examples=300)
@given(st.integers(0, 2000), st.binary(max_size=6), st.integers(0, 6))
def test_no_mutated_response_escapes_as_anything_but_labels_or_a_protocol_error(
    at: int, junk: bytes, drop: int
) -> None:
    data = bytearray(json.dumps(GOOD).encode())
    at %= len(data)
    data[at : at + drop] = junk
    try:
        parsed = parse(bytes(data))
    except ProviderError as error:
        assert error.kind is ErrorKind.PROTOCOL  # noqa: PT017
    else:
        assert all(0.0 <= label.score <= 1.0 for label in parsed.labels)


def test_no_mutated_reply_makes_the_adapter_raise() -> None:
    """Whatever the body and the status: an answer that reads the same again, or a typed error."""
    provider, said = adapter.create(ProviderOptions()), [(200, b"")]
    hook(provider, lambda **_: response(said[0][0], {}, said[0][1]))
    bodies = [json.dumps(GOOD).encode(), b'{"__type": "ThrottlingException", "message": "slow down"}']

    @settings(max_examples=150, deadline=None)
    @given(
        st.sampled_from(bodies),
        st.sampled_from([200, 204, 302, 400, 429, 500]),
        st.integers(0, 999),
        st.binary(max_size=4),
    )
    def mutate(body: bytes, status: int, at: int, junk: bytes) -> None:
        at %= len(body)
        said[0] = (status, body[:at] + junk + body[at + 1 :])
        (outcome,) = provider.label([IMAGE])
        if isinstance(outcome, Answer):
            assert status == 200
            assert (outcome.raw, parse(outcome.raw)) == (said[0][1], outcome.parsed)
        else:
            assert isinstance(outcome, ProviderError)
            assert outcome.status == status
            if status < 500:  # of a 5xx it depends on whether the service's own error can be read in it
                assert outcome.uncertain == (status == 200)

    mutate()
