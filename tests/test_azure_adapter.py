"""The Azure adapter: every reply becomes labels or a typed error; the SDK never sends twice or elsewhere; no key gets out."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import responses
from apibench_adapters.azure import INFO, AzureProvider, adapter, parse
from hypothesis import given, settings
from hypothesis import strategies as st

from apibench.emulator import Answerer, Emulator
from apibench.query.contract import Answer, EncodedImage, ErrorKind, Outcome, ProviderError, ProviderOptions
from apibench.query.engine import Engine, Question
from apibench.query.registry import origin_of
from apibench.query.store import Key, ResponseStore, canonical
from tests.emulation import by_colour, picture
from tests.fakes import QUICK
from tests.servers import Respond, http, http_server, reset

pytest.importorskip("azure.cognitiveservices.vision.computervision")

IMAGE = EncodedImage(b"\x89PNG pretend", "0" * 64)
HOST = "name.cognitiveservices.azure.com"
URL = f"https://{HOST}/vision/v3.2/tag"
# Like no key that a pattern could find: what keeps it secret is that it is known.
SECRET = "odd-key.of~the_user"
# Synthetic, in the shape that the REST reference documents.
GOOD = {
    "tags": [
        {"name": "dog", "confidence": 0.985, "hint": "animal"},
        {"name": "grass", "confidence": 1.0000001},
        {"name": "皿", "confidence": 0},
    ],
    "requestId": "body-1",
    "metadata": {"width": 96, "height": 64, "format": "Png"},
    "modelVersion": "2021-05-01",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user's environment: a key and an endpoint, and no .netrc."""
    monkeypatch.setenv("VISION_ENDPOINT", f"https://{HOST}/")
    monkeypatch.setenv("VISION_KEY", SECRET)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def reply(body: object, status: int = 200, headers: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given_ = {"apim-request-id": "head-1"} if headers is None else headers
    return {"body": data, "status": status, "headers": given_, "content_type": "application/json", **options}


def recorded(body: object, status: int = 200, headers: dict[str, str] | None = None, **options: Any) -> Outcome:
    """The outcome of a recorded response, through the SDK whole but for the socket."""
    with responses.RequestsMock() as mock:
        mock.post(URL, **reply(body, status, headers, **options))
        provider = adapter.create(ProviderOptions())
        (outcome,) = provider.label([IMAGE])
        provider.close()
        assert len(mock.calls) == 1
    return outcome


def test_labels_scores_and_the_raw_body() -> None:
    outcome = recorded(GOOD)
    assert isinstance(outcome, Answer)
    assert outcome.raw == json.dumps(GOOD).encode()
    assert outcome.request_id == "head-1"
    assert outcome.parsed.model_version == "2021-05-01"
    found = [(x.name, x.score, x.id, x.parents) for x in outcome.parsed.labels]
    assert found == [("dog", 0.985, None, ()), ("grass", 1.0, None, ()), ("皿", 0.0, None, ())]
    assert adapter.parse(outcome.raw) == outcome.parsed


@pytest.mark.parametrize(("said", "expected"), [("body-1", "body-1"), (None, None), (7, None), ("\ud800", None)])
def test_the_request_id_is_the_bodys_where_the_header_has_none(said: object, expected: str | None) -> None:
    outcome = recorded(GOOD | {"requestId": said}, headers={})
    assert isinstance(outcome, Answer)
    assert outcome.request_id == expected


MALFORMED = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"<html><body>proxy login</body></html>",
    b"\xff\xfe\x00",
    b"{}",
    b'{"foo": 1}',
    b'{"tags": null}',
    b'{"tags": {}}',
    b'{"tags": ""}',
    b'{"tags": [], "modelVersion": 3}',
    b'{"tags": [null]}',
    b'{"tags": [{"name": "dog"}]}',
    b'{"tags": [{"confidence": 1}]}',
    b'{"tags": [{"name": 7, "confidence": 1}]}',
    b'{"tags": [{"name": "", "confidence": 1}]}',
    b'{"tags": [{"name": "\\ud800", "confidence": 1}]}',
    b'{"tags": [{"name": "dog", "confidence": "0.5"}]}',
    b'{"tags": [{"name": "dog", "confidence": NaN}]}',
    b'{"tags": [{"name": "dog", "confidence": 98}]}',
    b'{"tags": [{"name": "dog", "confidence": 1e999}]}',
    b'{"tags": [{"name": "dog", "confidence": 1' + b"0" * 5000 + b"}]}",
    b'{"tags": [{"name": "dog", "confidence": -1}]}',
    b'{"tags": [{"name": "dog", "confidence": true}]}',
    b'{"error": {"code": "InternalServerError", "message": "within a 200"}}',
    json.dumps(GOOD).encode()[:-9],
    b"[" * 100_000,
]


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("body", MALFORMED, ids=[str(body[:40]) for body in MALFORMED])
def test_a_success_without_readable_labels_is_a_protocol_error(body: bytes) -> None:
    """The SDK gives None for an empty body, a result without tags for another object, and errors for the rest."""
    outcome = recorded(body)
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.uncertain, outcome.status) == (ErrorKind.PROTOCOL, True, 200), (
        "it may have been billed"
    )
    assert (outcome.raw or b"")[:40] == body[:40]


@pytest.mark.parametrize("body", [b"", b'{"foo": 1}'], ids=["None from the SDK", "tags=None from the SDK"])
def test_where_the_sdk_is_content_the_body_is_not_taken_for_an_answer_without_labels(body: bytes) -> None:
    outcome = recorded(body)
    assert isinstance(outcome, ProviderError), "no labels were said, which is not the same as none seen"
    assert "labels" in outcome.message


def test_no_labels_at_all_is_an_answer() -> None:
    outcome = recorded({"tags": [], "modelVersion": "2021-05-01"})
    assert isinstance(outcome, Answer)
    assert outcome.parsed.labels == ()


@pytest.mark.parametrize("options", [{"content_type": "text/html"}, {"content_type": "application/xml"}, {}])
def test_labels_that_can_be_read_are_an_answer_even_where_the_sdk_stumbles(options: dict[str, Any]) -> None:
    """The SDK raises a DeserializationError on the type, or on the hint; the labels are there, and paid for."""
    body = json.dumps(GOOD if options else GOOD | {"metadata": {"width": "wide"}}).encode()
    outcome = recorded(body, **options)
    assert isinstance(outcome, Answer), outcome
    assert outcome.raw == body


def vendor(code: str, message: str = "about \x1b[31mthis\ntime", inner: str | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": "Something is wrong." if inner else message}
    return {"error": error | ({"innererror": {"code": inner, "message": message}} if inner else {})}


TRANSIENT, REJECTED, CREDENTIALS = ErrorKind.TRANSIENT, ErrorKind.REJECTED, ErrorKind.CREDENTIALS
THROTTLED, QUOTA, PROTOCOL = ErrorKind.THROTTLED, ErrorKind.QUOTA, ErrorKind.PROTOCOL
OUT_OF_QUOTA = "Out of call volume quota. Quota will be replenished in 2.12:34:56."
ERRORS: list[tuple[dict[str, Any], int, ErrorKind, str]] = [
    (vendor("401"), 401, CREDENTIALS, "401"),
    (vendor("PermissionDenied"), 401, CREDENTIALS, "PermissionDenied"),
    (vendor("403", "Access denied due to Virtual Network/Firewall rules."), 403, CREDENTIALS, "403"),
    (vendor("403", OUT_OF_QUOTA), 403, QUOTA, "403"),
    ({"statusCode": 403, "message": OUT_OF_QUOTA}, 403, QUOTA, "403"),
    ({"error": {"statusCode": 403, "message": OUT_OF_QUOTA}}, 403, QUOTA, "403"),
    (vendor("404", "Resource not found"), 404, CREDENTIALS, "404"),
    (vendor("429"), 429, THROTTLED, "429"),
    ({"statusCode": 429, "message": "Rate limit is exceeded."}, 429, THROTTLED, "429"),
    (vendor("InvalidRequest", inner="InvalidImageFormat"), 400, REJECTED, "InvalidImageFormat"),
    (vendor("InvalidRequest", inner="InvalidImageSize"), 400, REJECTED, "InvalidImageSize"),
    (vendor("InvalidRequest", inner="InvalidImageDimension"), 400, REJECTED, "InvalidImageDimension"),
    (vendor("InvalidRequest", inner="NotSupportedImage"), 400, REJECTED, "NotSupportedImage"),
    ({"code": "InvalidImageFormat", "message": "x", "requestId": "r"}, 400, REJECTED, "InvalidImageFormat"),
    (vendor("InvalidRequest", "Image size is too big.", "BadArgument"), 400, REJECTED, "BadArgument"),
    (vendor("InvalidRequest", "Input data is not a valid image."), 400, REJECTED, "InvalidRequest"),
    (vendor("InvalidRequest", "Image must be at least 50 pixels in width."), 400, REJECTED, "InvalidRequest"),
    (
        vendor("InvalidRequest", "The image size is not allowed to be zero or larger than 20971520 bytes."),
        400,
        REJECTED,
        "InvalidRequest",
    ),
    # Ours, and not the image's fault: no image may be given up for them.
    (vendor("InvalidRequest"), 400, PROTOCOL, "InvalidRequest"),
    (vendor("InvalidRequest", "Request body is invalid.", "BadArgument"), 400, PROTOCOL, "BadArgument"),
    (vendor("InvalidRequest", "not a valid image model version", "BadArgument"), 400, PROTOCOL, "BadArgument"),
    (vendor("InvalidRequest", "no image format", "NotSupportedLanguage"), 400, PROTOCOL, "NotSupportedLanguage"),
    (vendor("InvalidRequest", inner="InvalidModel"), 400, PROTOCOL, "InvalidModel"),
    (vendor("UnsupportedMediaType", "The Content-Type is not supported."), 415, PROTOCOL, "UnsupportedMediaType"),
    (vendor("InvalidRequest", inner="UnsupportedMediaType"), 415, REJECTED, "UnsupportedMediaType"),
    (vendor("413"), 413, REJECTED, "413"),
    (vendor("InternalServerError"), 500, TRANSIENT, "InternalServerError"),
    (vendor("InternalServerError", inner="FailedToProcess"), 500, TRANSIENT, "FailedToProcess"),
    (vendor("InternalServerError", inner="Timeout"), 500, TRANSIENT, "Timeout"),
    (vendor("InvalidRequest", inner="StorageException"), 400, TRANSIENT, "StorageException"),
    (vendor("ServiceUnavailable"), 503, TRANSIENT, "ServiceUnavailable"),
    (vendor("Unheard"), 405, PROTOCOL, "Unheard"),
    (vendor("Unheard"), 408, TRANSIENT, "Unheard"),
]


@pytest.mark.parametrize(
    ("body", "status", "kind", "code"), ERRORS, ids=[f"{status}-{code}-{kind}" for _, status, kind, code in ERRORS]
)
def test_the_vendors_errors_have_kinds(body: dict[str, Any], status: int, kind: ErrorKind, code: str) -> None:
    outcome = recorded(body, status, {"Retry-After": "2.5"})
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.code, outcome.status) == (kind, code, status)
    assert outcome.uncertain == (code == "Timeout"), "a time-out does not say that the work was not done"
    assert outcome.retry_after == 2.5
    assert outcome.message.startswith(f"{code}: ")
    assert outcome.message.isprintable()
    assert outcome.raw == json.dumps(body).encode()


def test_a_wrong_address_or_key_says_which_variable_to_check() -> None:
    nowhere = recorded(vendor("404", "Resource not found"), 404)
    assert isinstance(nowhere, ProviderError)
    assert nowhere.message == "404: Resource not found; check VISION_ENDPOINT"
    unknown = recorded(vendor("401", "Access denied due to invalid subscription key or wrong API endpoint."), 401)
    assert isinstance(unknown, ProviderError)
    assert unknown.message.endswith("; check VISION_KEY and VISION_ENDPOINT")


def test_an_empty_413_on_which_the_sdk_crashes_is_the_images_size() -> None:
    """A bare TypeError, from within the SDK's own exception."""
    outcome = recorded(b"", 413)
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.status, outcome.uncertain) == (REJECTED, 413, False)
    assert outcome.message == "Unknown (HTTP 413)"


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b'{"error": 7}', 400, PROTOCOL),
        (b'{"error": {"code": ["429"], "message": {}}}', 500, TRANSIENT),
        (b"[]", 503, TRANSIENT),
        (b"[" * 100_000, 500, TRANSIENT),
        (b"\xff\xfe", 429, THROTTLED),
        (b"", 403, CREDENTIALS),
        (b"", 404, CREDENTIALS),
        (b"", 415, PROTOCOL),
        (b"", 407, CREDENTIALS),
        (b"<html>Request Entity Too Large</html>", 413, REJECTED),
        (b"<html>Bad gateway</html>", 502, TRANSIENT),
        (b'{"statusCode": 500, "message": "Internal server error", "activityId": "1"}', 500, TRANSIENT),
        (b'{"error": {"code": "504", "message": "upstream"}}', 504, TRANSIENT),
        (b"", 204, PROTOCOL),
        (b'{"tags": []}', 202, PROTOCOL),
    ],
)
def test_an_error_that_is_not_the_services_own_is_judged_by_its_status(
    body: bytes, status: int, kind: ErrorKind
) -> None:
    outcome = recorded(body, status)
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.status, outcome.raw) == (kind, status, body)
    lost = status >= 500 or status < 300
    assert outcome.uncertain == lost, "a gateway's error does not say what the service behind it did"


@pytest.mark.parametrize("after", ["soon", "-1", "nan", "inf", "Tue, 24 Nov 2026 03:00:00 GMT"])
def test_a_retry_after_that_is_no_number_of_seconds_is_left_out(after: str) -> None:
    outcome = recorded(vendor("429"), 429, {"Retry-After": after})
    assert isinstance(outcome, ProviderError)
    assert outcome.retry_after is None


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("...of your current ComputerVision F0 pricing tier. Please retry after 26 seconds.", 26.0),
        ("Rate limit is exceeded. Try again in 1 second.", 1.0),
        ("Rate limit is exceeded. Try again later.", None),
    ],
)
def test_without_the_header_the_message_says_when_to_come_again(message: str, expected: float | None) -> None:
    outcome = recorded(vendor("429", message), 429, {})
    assert isinstance(outcome, ProviderError)
    assert outcome.retry_after == expected


def test_an_error_that_repeats_the_key_is_kept_without_it() -> None:
    body = vendor(SECRET, f"The key {SECRET} is not known here")
    for status in (401, 500):
        outcome = recorded(body, status)
        assert isinstance(outcome, ProviderError)
        assert outcome.raw is not None
        for found in (outcome.message, outcome.raw.decode(), str(outcome.code), repr(outcome)):
            assert SECRET not in found
    unreadable = recorded({"tags": SECRET})
    assert isinstance(unreadable, ProviderError)
    assert SECRET not in unreadable.message
    assert SECRET.encode() not in (unreadable.raw or b"")


# --- over real sockets: one hit for one call, whatever happens ---


def stall(connection: socket.socket) -> None:
    """The head and half a body, and then nothing."""
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"ta')
    threading.Event().wait(0.6)


def emulated(url: str, timeout: float = 5.0, **options: Any) -> AzureProvider:
    return adapter.create(ProviderOptions(endpoint=url, emulated=True, timeout=timeout, **options))


ERROR = json.dumps(vendor("InternalServerError")).encode()
FAULTS: list[tuple[str, Respond, ErrorKind, bool]] = [
    ("429", http("429 Too Many Requests", json.dumps(vendor("429")).encode(), "Retry-After: 1\r\n"), THROTTLED, False),
    ("401", http("401 Unauthorized", b"{}", 'WWW-Authenticate: Basic realm="x"\r\n'), CREDENTIALS, False),
    ("500", http("500 Internal Server Error", ERROR, "Retry-After: 1\r\n"), TRANSIENT, False),
    ("503", http("503 Service Unavailable", b"<html>", "Retry-After: 1\r\n"), TRANSIENT, True),
    ("408", http("408 Request Timeout", b""), TRANSIENT, False),
    ("drop", lambda connection: None, TRANSIENT, True),
    ("reset", reset, TRANSIENT, True),
    ("hang", lambda connection: threading.Event().wait(0.6), TRANSIENT, True),
    ("half a body", lambda c: c.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"ta'), PROTOCOL, True),
    ("half a body, and a hang", stall, PROTOCOL, True),
    ("half a refusal", lambda c: c.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 500\r\n\r\n{"), CREDENTIALS, False),
    ("no gzip", http("200 OK", b"plain", "Content-Encoding: gzip\r\n"), PROTOCOL, True),
    ("no http", lambda c: c.sendall(b"220 mail.example ESMTP\r\n"), TRANSIENT, True),
    ("malformed", http("200 OK", b"{{{{"), PROTOCOL, True),
    ("empty", http("200 OK", b""), PROTOCOL, True),
]


@pytest.mark.parametrize(("reply", "kind", "uncertain"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_the_sdk_sends_once_whatever_comes_back(reply: Respond, kind: ErrorKind, uncertain: bool) -> None:
    with http_server(reply) as (url, hits):
        provider = emulated(url, timeout=0.3)
        (outcome,) = provider.label([IMAGE])
        provider.close()
        assert isinstance(outcome, ProviderError)
        assert (outcome.kind, outcome.uncertain) == (kind, uncertain), outcome.message
        assert len(hits) == 1


def test_a_5xx_keeps_its_body_where_urllib3_repeats_posts() -> None:
    """As urllib3 1.x does, which heeds what msrest sets: a 5xx would be an error of urllib3's own, its body lost."""
    with http_server(http("500 Internal Server Error", ERROR)) as (url, hits):
        provider = emulated(url)
        provider._client.config.retry_policy.policy.allowed_methods = None
        (outcome,) = provider.label([IMAGE])
        assert isinstance(outcome, ProviderError)
        assert (outcome.code, outcome.uncertain, len(hits)) == ("InternalServerError", False, 1)


def test_a_lost_reply_is_not_taken_for_the_one_before() -> None:
    said: list[Respond] = [http("200 OK", json.dumps(GOOD).encode()), lambda connection: None]
    with http_server(lambda connection: said.pop(0)(connection)) as (url, _):
        provider = emulated(url)
        first, second = provider.label([IMAGE]) + provider.label([IMAGE])
    assert isinstance(first, Answer)
    assert isinstance(second, ProviderError)
    assert (second.kind, second.uncertain) == (TRANSIENT, True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed_with_the_image_or_the_key(status: int) -> None:
    with http_server(http("200 OK", json.dumps(GOOD).encode())) as (elsewhere, followed):
        there = f"Location: {elsewhere}/vision/v3.2/tag\r\n"
        with http_server(http(f"{status} Moved", b"", there)) as (url, hits):
            provider = emulated(url, timeout=0.5)
            (outcome,) = provider.label([IMAGE])
            provider.close()
        assert (len(hits), followed) == (1, [])
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.status, outcome.uncertain) == (PROTOCOL, status, False)


def test_the_time_out_is_the_one_that_was_asked_for() -> None:
    told = threading.Event()
    with http_server(lambda connection: told.wait(5)) as (url, _):
        (outcome,) = emulated(url, timeout=0.1).label([IMAGE])
        told.set()
    assert isinstance(outcome, ProviderError)
    assert "read timeout=0.1" in outcome.message


def test_a_refused_connection_is_transient_and_certain_and_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left alone, msrest tries four times here, for five seconds."""
    import urllib3.util.connection

    connect = urllib3.util.connection.create_connection
    tried: list[Any] = []

    def counted(*arguments: Any, **options: Any) -> socket.socket:
        tried.append(arguments)
        return connect(*arguments, **options)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", counted)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (outcome,) = emulated(f"http://127.0.0.1:{port}").label([IMAGE])
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.uncertain) == (TRANSIENT, False)
    assert len(tried) == 1


def test_a_proxy_that_is_not_there_is_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real calls do go through the user's proxy; here it is a closed port."""
    (outcome,) = adapter.create(ProviderOptions(timeout=2)).label([IMAGE])
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.uncertain) == (TRANSIENT, False)
    assert "ProxyError" in outcome.message


def test_what_goes_wrong_before_anything_is_sent_does_not_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = emulated("http://127.0.0.1:1")
    monkeypatch.setattr(provider._client, "tag_image_in_stream", lambda *_, **__: 1 / 0)
    (outcome,) = provider.label([IMAGE])
    assert isinstance(outcome, ProviderError)
    assert (outcome.kind, outcome.uncertain) == (PROTOCOL, True)


def test_a_body_that_was_packed_on_the_way_is_kept_unpacked() -> None:
    body = json.dumps(GOOD).encode()
    with http_server(http("200 OK", gzip.compress(body), "Content-Encoding: gzip\r\n")) as (url, hits):
        (outcome,) = emulated(url).label([IMAGE])
        assert isinstance(outcome, Answer)
        assert outcome.raw == body
    assert b"\r\naccept-encoding: identity\r\n" in hits[0].lower(), "and is asked for as it is"


def test_emulated_uses_a_fake_key_and_nothing_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login someone password {SECRET}\n")
    monkeypatch.setenv("VISION_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("AZURE_HTTP_USER_AGENT", "of-the-environment")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    with http_server(http("200 OK", json.dumps(GOOD).encode())) as (url, hits):
        provider = emulated(url)
        (outcome,) = provider.label([IMAGE])
        assert isinstance(outcome, Answer), outcome
    assert b"\r\nOcp-Apim-Subscription-Key: EMULATED\r\n" in hits[0]
    for absent in (SECRET, "Authorization", "of-the-environment"):
        assert absent.encode() not in hits[0]
    assert adapter.endpoint(ProviderOptions(emulated=True)) is None


def test_a_password_in_the_users_netrc_is_not_sent_along(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text(f"default login someone password secret\nmachine {HOST} login me password secret\n")
    with responses.RequestsMock() as mock:
        mock.post(URL, **reply(GOOD))
        adapter.create(ProviderOptions()).label([IMAGE])
        sent = mock.calls[0].request.headers
    assert "Authorization" not in sent
    assert sent["Ocp-Apim-Subscription-Key"] == SECRET


@pytest.mark.parametrize(
    "endpoint",
    [
        None,
        f"https://{HOST}",
        "http://10.0.0.1",
        "http://127.0.0.1.example",
        "http://127.0.0.1@vision.example",
        "http://vision.example\\@127.0.0.1",
        "http://127.0.0.1:1?x=",
    ],
)
def test_emulated_calls_never_leave_the_machine(endpoint: str | None) -> None:
    refusal(lambda: adapter.create(ProviderOptions(endpoint=endpoint, emulated=True)))


@pytest.mark.parametrize(("base", "path"), [("", ""), ("/", ""), ("/behind/a/gateway/", "/behind/a/gateway")])
def test_language_and_model_version_are_sent_and_are_the_settings(base: str, path: str) -> None:
    chosen = {"language": "ja", "model-version": "2021-04-01"}
    image = EncodedImage(bytes(range(256)) * 1200, "1" * 64)
    with http_server(http("200 OK", json.dumps(GOOD).encode())) as (url, hits):
        provider = emulated(url + base, settings=chosen)
        (outcome,) = provider.label([image])
        assert isinstance(outcome, Answer)
    head, _, body = hits[0].partition(b"\r\n\r\n")
    wanted = f"POST {path}/vision/v3.2/tag?language=ja&model-version=2021-04-01 HTTP/1.1\r\n"
    assert head.startswith(wanted.encode())
    assert body == b"4b000\r\n" + image.data + b"\r\n0\r\n\r\n", "in one piece, not in a hundred"
    assert provider.settings == chosen == adapter.settings(ProviderOptions(settings=chosen))
    assert adapter.settings(ProviderOptions()) == {"language": "en", "model-version": "latest"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"Language": "en"},
        {"language": "de"},
        {"language": ""},
        {"language": True},
        {"model-version": "newest"},
        {"model-version": "2021-4-1"},
        {"model-version": "latest\n"},
        {"model-version": "٢٠٢١-٠٤-٠١"},
        {"model-version": 2021},
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        adapter.settings(ProviderOptions(settings=wrong))


@pytest.mark.parametrize("version", ["latest", "latest-preview", "2021-05-01", "2022-07-31-preview"])
def test_a_model_version_may_be_what_the_sdk_takes(version: str) -> None:
    assert adapter.settings(ProviderOptions(settings={"model-version": version}))["model-version"] == version


# --- credentials ---


def refusal(make: Callable[[], object]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        make()
    assert caught.value.kind is CREDENTIALS
    assert "\n" not in caught.value.message
    assert SECRET not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("unset", "named"),
    [
        (("VISION_KEY",), "set VISION_KEY ("),
        (("VISION_ENDPOINT",), "set VISION_ENDPOINT ("),
        (("VISION_KEY", "VISION_ENDPOINT"), "set VISION_ENDPOINT and VISION_KEY ("),
    ],
)
@pytest.mark.parametrize("blank", [True, False])
def test_no_credentials_is_one_line_that_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, unset: tuple[str, ...], named: str, blank: bool
) -> None:
    for name in unset:
        monkeypatch.setenv(name, " \n") if blank else monkeypatch.delenv(name)
    assert named in refusal(lambda: adapter.create(ProviderOptions())).message


def test_an_endpoint_that_is_given_comes_before_the_variable() -> None:
    options = ProviderOptions(endpoint="https://westus.api.cognitive.microsoft.com/")
    assert adapter.endpoint(options) == options.endpoint
    assert adapter.create(options).host == "westus.api.cognitive.microsoft.com"
    assert adapter.endpoint(ProviderOptions()) == f"https://{HOST}/"
    assert adapter.create(ProviderOptions()).host == HOST


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:9",
        f"http://{HOST}",
        HOST,
        f"ftp://{HOST}",
        f"https://someone:{SECRET}@{HOST}",
        f"https://evil.example\\@{HOST}",
        f"https://{HOST}?x=",
        f"https://{HOST}#x",
        f"https://{HOST}/{{0}}",
        f"https://{HOST}:port",
        "https://",
    ],
)
def test_real_keys_go_over_https_to_an_address_that_can_be_read_in_one_way(endpoint: str) -> None:
    refusal(lambda: adapter.create(ProviderOptions(endpoint=endpoint)))


@pytest.mark.parametrize("key", [f"{SECRET}\nX: y", f"two {SECRET}", f"{SECRET}é"])
def test_a_key_that_is_none_is_refused_and_not_printed(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("VISION_KEY", key)
    assert refusal(lambda: adapter.create(ProviderOptions())).message.startswith("VISION_KEY")


def test_a_key_copied_with_its_line_end_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISION_KEY", f" {SECRET}\n")
    monkeypatch.setenv("VISION_ENDPOINT", f"https://{HOST}/\n")
    assert isinstance(recorded(GOOD), Answer)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (HOST, "live"),
        ("a-b-1.cognitiveservices.azure.us", "live"),
        ("x.cognitiveservices.azure.cn", "live"),
        ("westeurope.api.cognitive.microsoft.com", "live"),
        ("usgovvirginia.api.cognitive.microsoft.us", "live"),
        ("chinaeast2.api.cognitive.azure.cn", "live"),
        ("cognitiveservices.azure.com", "custom"),
        (f"{HOST}.example", "custom"),
        ("evil.example/x.cognitiveservices.azure.com", "custom"),
        ("namexcognitiveservices.azure.com", "custom"),
        ("a.b.api.cognitive.microsoft.com", "custom"),
        ("x.cloudapp.azure.com", "custom"),
        ("127.0.0.1", "custom"),
    ],
)
def test_only_the_vendors_own_hosts_are_live(host: str, origin: str) -> None:
    assert origin_of(host, INFO, emulated=False) == origin


def test_no_key_ends_up_in_a_store(tmp_path: Path) -> None:
    """Through the engine into the store: an answer, an error that repeats the key, and a reply that is not readable."""
    with responses.RequestsMock() as mock, ResponseStore.open(tmp_path / "s.sqlite") as store:
        mock.post(URL, **reply(vendor("429", f"Ocp-Apim-Subscription-Key: {SECRET}"), 429))
        mock.post(URL, **reply(f"<html>{SECRET}".encode()))
        mock.post(URL, **reply(GOOD))
        provider = adapter.create(ProviderOptions())
        assert SECRET not in f"{provider!r} {vars(provider).keys()} {provider.settings} {provider.info}"
        key = Key("default", "azure", "live", canonical(provider.settings))
        report = Engine(provider, store, key, policy=QUICK).run([Question(IMAGE.sha256, "x", lambda: IMAGE.data)])
        assert (report.answered, report.sent, report.uncertain) == (1, 3, 1)
    held = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"429" in held
    assert SECRET.encode() not in held


# --- threads, imports ---


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(providers=["azure"], answerer=Answerer(by_colour, "tiny")) as running:
        yield running


def test_threads_get_their_own_answers_and_all_their_connections_are_closed(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = emulated(emulator.url)
    ask, together = provider._client.tag_image_in_stream, threading.Barrier(8, timeout=10)

    @wraps(ask)
    def all_at_once(*arguments: Any, **options: Any) -> None:
        """No thread looks at its reply before each has one."""
        ask(*arguments, **options)
        together.wait()

    monkeypatch.setattr(provider._client, "tag_image_in_stream", all_at_once)

    def work(worker: int) -> None:
        for turn in range(4):
            red = 25 * worker + turn + 20
            (outcome,) = provider.label([EncodedImage(picture(red, 100, 0), f"{red:064d}")])
            assert isinstance(outcome, Answer), outcome
            found = {label.name: label.score for label in outcome.parsed.labels}
            assert found["golden retriever"] == pytest.approx(red / (red + 100), abs=1e-3)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert emulator.hits == {"answered": 32}
    assert emulator._server is not None
    assert len(emulator._server._open) == 8
    provider.close()
    until = time.monotonic() + 5
    while emulator._server._open and time.monotonic() < until:
        time.sleep(0.01)
    assert not emulator._server._open


@pytest.mark.parametrize(
    ("fault", "kind", "uncertain", "billed"),
    [
        ("throttle", THROTTLED, False, 0),
        ("429", THROTTLED, False, 0),
        ("500", TRANSIENT, False, 0),
        ("503", TRANSIENT, False, 0),
        ("drop", TRANSIENT, True, 0),
        ("hang:0.05", TRANSIENT, True, 0),
        ("drop-after", TRANSIENT, True, 1),
        ("truncated", PROTOCOL, True, 1),
        ("malformed", PROTOCOL, True, 0),
        ("empty", PROTOCOL, True, 0),
        ("html", PROTOCOL, True, 0),
    ],
)
def test_what_may_have_been_billed_is_uncertain(fault: str, kind: ErrorKind, uncertain: bool, billed: int) -> None:
    with Emulator(providers=["azure"], answerer=Answerer(by_colour, "tiny"), faults=[fault]) as emulator:
        provider = emulated(emulator.url)
        (outcome,) = provider.label([EncodedImage(picture(), "1" * 64)])
        assert isinstance(outcome, ProviderError)
        assert (outcome.kind, outcome.uncertain) == (kind, uncertain)
        assert outcome.retry_after == (1.0 if kind is THROTTLED else None)
        assert (emulator.hits.total(), emulator.bill_count) == (1, billed)
        (again,) = provider.label([EncodedImage(picture(), "1" * 64)])
        provider.close()
        assert isinstance(again, Answer), again
        assert again.parsed.model_version == "emulated/tiny"


def test_the_adapter_and_its_parser_need_no_sdk() -> None:
    code = (
        "import sys, json; sys.modules.update(dict.fromkeys(['azure', 'msrest', 'requests', 'urllib3']));"
        "from apibench_adapters.azure import adapter; from apibench.query.contract import ProviderOptions;"
        "print(adapter.parse(json.dumps({'tags': [{'name': 'dog', 'confidence': 0.5}]}).encode()).labels[0].name,"
        " adapter.settings(ProviderOptions())['language'])"
    )
    path = os.pathsep.join(sys.path)
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=True
    )
    assert found.stdout.split() == ["dog", "en"]


# --- whatever comes ---


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
        assert error.kind is PROTOCOL  # noqa: PT017
    else:
        assert all(0.0 <= label.score <= 1.0 for label in parsed.labels)


def test_no_mutated_reply_makes_the_adapter_raise() -> None:
    """Whatever the body and the status: an answer that reads the same again, or a typed error."""
    bodies = [json.dumps(body).encode() for body in (GOOD, vendor("InvalidRequest", inner="InvalidImageSize"))]
    with responses.RequestsMock() as mock:
        provider = adapter.create(ProviderOptions())

        @settings(max_examples=150, deadline=None)
        @given(
            st.sampled_from(bodies),
            st.sampled_from([200, 204, 302, 400, 403, 413, 429, 500]),
            st.integers(0, 999),
            st.binary(max_size=4),
        )
        def mutate(body: bytes, status: int, at: int, junk: bytes) -> None:
            at %= len(body)
            said = body[:at] + junk + body[at + 1 :]
            mock.upsert("POST", re.compile(URL), **reply(said, status))
            (outcome,) = provider.label([IMAGE])
            if isinstance(outcome, Answer):
                assert status == 200
                assert (outcome.raw, parse(outcome.raw)) == (said, outcome.parsed)
            else:
                assert isinstance(outcome, ProviderError)
                assert outcome.status == status
                if status < 500:  # of a 5xx it depends on whether the service's own error can be read in it
                    assert outcome.uncertain == (status < 300)

        mutate()
