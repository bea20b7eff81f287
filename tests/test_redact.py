"""Secrets: whatever an SDK or a server says, no key of this process reaches a store, a recording, a report or a traceback."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import traceback
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apibench.cli import cli
from apibench.errors import ApibenchError
from apibench.query import registry
from apibench.query.cassette import Recorder
from apibench.query.contract import (
    Answer,
    ErrorKind,
    Label,
    Parsed,
    ProviderError,
    ProviderOptions,
    WireKind,
)
from apibench.query.engine import Engine
from apibench.query.redact import MOST_KEPT, mask, of_environment, redact, redact_body
from apibench.query.result import Question
from apibench.query.store import Key, ResponseStore, canonical
from tests.fakes import QUICK
from tests.servers import http, http_server

VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("VISION_KEY", "CLARIFAI_PAT", "GOOGLE_API_KEY", "EXAMPLE_API_KEY", "MY_SERVICE_TOKEN", "DB_PASSWORD"),
)
# What may be in a header and in an environment; not of one character only.
SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=60).filter(
    lambda text: len(set(text)) > 5
)
PLACES = (
    "HTTPSConnectionPool(host='api.example', port=443): Max retries exceeded with url: /v1?key={} (Caused by",
    "401 Unauthorized: no such key {}",
    "{{'Authorization': 'Bearer {}', 'Accept': '*/*'}}",
    "request to https://user:{}@proxy.example:3128/ failed",
    "key={}&other=1",
    "x-goog-api-key: {}\nx: y",
    "{}",
    "a{}b",
)
FORMS = (str, lambda secret: quote(secret, safe=""), quote, lambda secret: base64.b64encode(secret.encode()).decode())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SECRETS, st.sampled_from(VARIABLES), st.sampled_from(PLACES), st.sampled_from(FORMS))
def test_a_planted_secret_of_this_process_is_in_no_part_of_an_error(
    monkeypatch: pytest.MonkeyPatch, secret: str, variable: str, place: str, form: object
) -> None:
    said = place.format(form(secret))  # type: ignore[operator]
    with monkeypatch.context() as patch:
        patch.setenv(variable, secret)
        try:
            raise ProviderError(ErrorKind.TRANSIENT, said, code=said, raw=said.encode())
        except ProviderError as error:
            shown = "".join(traceback.format_exception(error))
            parts = [shown, str(error), repr(error), repr(error.args), error.message, str(error.code), repr(error.raw)]
        answer = Answer(said.encode(), Parsed((Label(said, 0.5),)), said)
        parts += [repr(answer), redact(said), repr(redact_body(said.encode())), repr(mask(said.encode()))]
        for part in parts:
            # The source line of the raise names no value, so the whole traceback may be searched.
            assert secret not in part
            assert form(secret) not in part  # type: ignore[operator]


@pytest.mark.parametrize(
    "said",
    [
        "AKIA" + "IOSFODNN7EXAMPLE",
        "ASIAIOSFODNN7EXAMPLE",
        "AIzaSyB-abcdefghijklmnopqrstuvwxyz_0123",
        "ya29.a0AfH6SMBx",
        "0123456789abcdef0123456789abcdef",
        "Credential=AKID/20260101/us-east-1/rekognition/aws4_request",
        "Signature=fe5f80f77d5fa3beca038a248ff027d0445342fe2855ddc963176630326f1024",
        "x-amz-security-token: IQoJb3JpZ2luX2VjEJr",
        "Authorization: Bearer abc.def-ghi",
        "api_key=s3cr3t",
        "api-key: s3cr3t",
        "Ocp-Apim-Subscription-Key: s3cr3t",
        "bearer 0123456789abcdefgh",
        "Key 0123456789abcdefgh",
        "client_secret=s3cr3t",
        "token: s3cr3t",
        "https://user:pass@proxy",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    ],
)
def test_what_looks_like_a_key_goes_whether_it_is_known_or_not(said: str) -> None:
    value = said.split("@")[0].split("//")[-1].split("=", 1)[-1].split(": ")[-1].split(" ")[-1]
    for shown in (redact(f"it said {said} and more"), redact_body(f"it said {said} and more".encode()).decode()):
        assert value not in shown
        assert shown.startswith("it said")


@pytest.mark.parametrize(
    "said",
    [
        "no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        "InvalidImageFormatException: Request has invalid image format",
        "79 x 400 pixels: it takes no side below 80",
        "no Clarifai credentials found; set CLARIFAI_PAT to a personal access token",
        "CONN_THROTTLED: Making too many requests: exceeded limit of 15 requests per second",
    ],
)
def test_what_a_person_needs_to_know_stays(said: str) -> None:
    assert ProviderError(ErrorKind.REJECTED, said).message == said


@pytest.mark.parametrize("run", [100, 50_000, MOST_KEPT + 100])
def test_a_million_characters_without_a_space_are_redacted_in_one_pass(run: int) -> None:
    """Cut off where a word ends: at the last space that is kept, and with none at the very beginning."""
    body = "-" * run + " " + "-" * (1_000_000 - run)
    begun = time.process_time()
    kept = redact_body(body.encode()).decode()
    said = redact(body)
    assert time.process_time() - begun < 2, "a pattern that began anew with each of them took ten seconds"
    assert kept == ("-" * run + " " if run < MOST_KEPT else "") + " [cut off]"
    assert said == ("-" * 100 + " [cut off]" if run == 100 else "[cut off]")


def test_which_variables_hold_secrets(tmp_path: Path) -> None:
    key_file = tmp_path / "key.json"
    key_file.touch()
    environment = dict.fromkeys(VARIABLES, "synthetic-value") | {
        "PATH": "/usr/bin:/bin",
        "MONKEY": "not-a-secret",
        "KEYBOARD": "not-a-secret",
        "GOOGLE_APPLICATION_CREDENTIALS": str(key_file),
        "SSH_KEY": str(key_file),
        "SHORT_KEY": "short",
    }
    assert of_environment(environment) == {"synthetic-value"}


def test_an_answer_is_as_received_unless_it_repeats_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b'{"labels": [{"name": "0123456789abcdef0123456789abcdef", "id": "bearer 0123456789abcdefgh"}]}'
    monkeypatch.setenv("SOME_API_KEY", "labels")
    assert Answer(raw, Parsed(())).raw is raw
    monkeypatch.setenv("SOME_API_KEY", "0123456789abcdef0123456789abcdef")
    masked = Answer(raw, Parsed(())).raw
    assert len(masked) == len(raw)
    assert b"0123456789abcdef0123456789abcdef" not in masked


def test_options_do_not_show_what_is_in_an_address_or_a_setting() -> None:
    options = ProviderOptions(endpoint="https://me:hunter22@api.example", settings={"api_key": "hunter22", "n": 3})
    for shown in (repr(options), str(options), f"{replace(options, timeout=1.0)}"):
        assert "hunter22" not in shown
        assert "timeout" in shown


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> str:
    secret = "Planted" + "+Secret/Value~0123.4"  # no pattern of a key: known only by its variable
    for name in VARIABLES:
        monkeypatch.setenv(name, secret)
    return secret


REPLIES = {
    "aws": '{{"__type": "UnrecognizedClientException", "message": "{}"}}',
    "azure": '{{"error": {{"code": "{0}", "message": "{0}"}}}}',
    "google": '{{"error": {{"code": 400, "status": "{0}", "message": "{0}", "details": ["{0}"]}}}}',
}


@pytest.mark.parametrize("status", ["200 OK", "400 Bad", "401 No", "429 Slow", "500 Broken"])
@pytest.mark.parametrize("vendor", REPLIES)
def test_a_key_that_a_server_repeats_reaches_neither_store_nor_recording(
    vendor: str, status: str, tmp_path: Path, planted: str
) -> None:
    """In the body, in the headers, and in the status line."""
    headers = "".join(
        f"{name}: {planted}\r\n"
        for name in (
            "x-amzn-requestid",
            "x-amzn-errortype",
            "apim-request-id",
            "retry-after",
            "location",
            "www-authenticate",
        )
    )
    reply = http(f"{status} {planted}", REPLIES[vendor].format(planted).encode(), headers)
    adapter = registry.adapter(vendor)
    key = Key("default", vendor, "emulated", canonical({}))
    question = Question(hashlib.sha256(b"x").hexdigest(), "x", lambda: b"x")
    extra = {"transport": "rest"} if vendor == "google" else {}
    with http_server(reply) as (url, hits), Recorder(tmp_path / "c.jsonl") as recorder:
        options = ProviderOptions(endpoint=url, emulated=True, settings=extra, tap=recorder.tap)
        provider = recorder.provider(adapter.create(options), key, WireKind.HTTP)
        with ResponseStore.open(tmp_path / "s.sqlite") as store:
            report = Engine(provider, store, key, policy=QUICK).run([question])
        provider.close()
        assert hits
    assert planted not in repr(report)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 2
    for path in written:
        assert planted.encode() not in path.read_bytes(), path
        assert quote(planted, safe="").encode() not in path.read_bytes(), path
    assert json.loads((tmp_path / "c.jsonl").read_text().splitlines()[0])["provider"] == vendor


def test_help_and_a_users_mistakes_show_no_key(planted: str, tmp_path: Path) -> None:
    for arguments in (
        ["--help"],
        ["query", "--help"],
        ["query", "--provider", "aws", "--images", str(tmp_path), "--store", str(tmp_path / "s"), "--dry-run"],
    ):
        result = CliRunner().invoke(cli, arguments)
        assert planted not in result.output + str(result.exception)


def test_an_adapter_that_cannot_be_loaded_is_told_without_what_it_holds(
    monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    class Point:
        name = "mine"

        def load(self) -> object:
            raise ImportError(f"cannot reach https://host/?key={planted}")

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()])
    with pytest.raises(ApibenchError, match="mine: its adapter cannot be loaded") as caught:
        registry.adapter("mine")
    assert planted not in "".join(traceback.format_exception(caught.value))
