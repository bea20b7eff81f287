"""Keys: AWS's signatures are verified with botocore's own signer, the others' keys compared; nothing repeats them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from typing import Any

import pytest

from apibench.emulator import Emulator, sigv4, vendors
from apibench.emulator.wire import Request
from apibench.errors import ApibenchError
from tests.emulation import Start, emulators, picture

boto3 = pytest.importorskip("boto3")
auth = pytest.importorskip("botocore.auth")
awsrequest = pytest.importorskip("botocore.awsrequest")
credentials = pytest.importorskip("botocore.credentials")
exceptions = pytest.importorskip("botocore.exceptions")
SESSION = boto3.session.Session()

KEYS = {"ID:s3cr3t/with+signs", "UNVERIFIED"}


@pytest.fixture
def start() -> Iterator[Start]:
    with emulators("aws") as started:
        yield started


def ask(emulator: Emulator, key: str, secret: str, token: str | None = None, region: str = "us-east-1") -> Any:
    from botocore.config import Config

    client = SESSION.client(
        "rekognition",
        endpoint_url=emulator.url,
        region_name=region,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        aws_session_token=token,
        config=Config(proxies={}, retries={"total_max_attempts": 1, "mode": "standard"}),
    )
    return client.detect_labels(Image={"Bytes": picture()})


def refusal(emulator: Emulator, key: str, secret: str) -> tuple[str, str, int]:
    with pytest.raises(exceptions.ClientError) as caught:
        ask(emulator, key, secret)
    response = caught.value.response
    return response["Error"]["Code"], response["Error"]["Message"], response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
@pytest.mark.parametrize("token", [None, "session-token"])
def test_boto3s_signature_is_the_right_one(start: Start, token: str | None, region: str) -> None:
    emulator = start(accepted_keys=KEYS)
    assert ask(emulator, "ID", "s3cr3t/with+signs", token, region)["Labels"]


def test_a_wrong_secret_and_an_unknown_key_are_told_apart(start: Start) -> None:
    emulator = start(accepted_keys=KEYS)
    code, message, status = refusal(emulator, "ID", "guessed")
    assert (code, status) == ("InvalidSignatureException", 400)
    assert message.startswith("The request signature we calculated does not match the signature you provided.")
    code, message, status = refusal(emulator, "OTHER", "s3cr3t/with+signs")
    assert (code, status) == ("UnrecognizedClientException", 400)
    assert message == "The security token included in the request is invalid."
    assert ask(emulator, "UNVERIFIED", "whatever")["Labels"], "an id without its secret is only known"
    assert emulator.bill == {"aws": 1}


def signed(body: bytes, at: datetime, host: str = "x", **changed: Any) -> dict[str, str]:
    """Headers as botocore's signer makes them, at another time than now, and then changed."""
    headers = {"Host": host, "X-Amz-Target": "RekognitionService.DetectLabels"} | changed.pop("extra", {})
    request = awsrequest.AWSRequest("POST", f"http://{host}/", headers=headers, data=body)
    request.context["timestamp"] = at.strftime("%Y%m%dT%H%M%SZ")
    request.headers["X-Amz-Date"] = request.context["timestamp"]
    key = credentials.Credentials("ID", "s3cr3t/with+signs")
    signer = auth.SigV4Auth(key, changed.pop("service", "rekognition"), "us-east-1")
    text = signer.string_to_sign(request, signer.canonical_request(request))
    signer._inject_signature_to_request(request, signer.signature(text, request))
    return dict(request.headers.items()) | changed


def flaw(headers: dict[str, str], body: bytes = b"{}", path: str = "/") -> str | None:
    lower = {name.lower(): value for name, value in headers.items()}
    fields = dict(part.strip().partition("=")[::2] for part in lower["authorization"].partition(" ")[2].split(","))
    taken = sigv4.Signed.of(fields["Credential"], fields["SignedHeaders"], fields["Signature"])
    assert taken is not None
    return sigv4.flaw(Request("POST", path, lower, body, "id"), taken, "s3cr3t/with+signs")


def test_whatever_is_signed_may_not_be_changed() -> None:
    now = datetime.now(UTC)
    headers = signed(b"{}", now)
    assert flaw(headers) is None
    mismatch = "The request signature we calculated does not match"
    assert mismatch in str(flaw(headers, b"{ }"))
    assert mismatch in str(flaw(headers, path="/other"))
    assert mismatch in str(flaw(headers | {"X-Amz-Target": "RekognitionService.DetectFaces"}))
    assert mismatch in str(flaw(headers | {"Host": "y"}))
    assert flaw(headers | {"X-Other": "not signed"}) is None
    hashed = signed(b"{}", now, extra={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    assert mismatch in str(flaw(hashed)), "a body has to be signed, whatever the header says"


def test_clocks_may_differ_by_five_minutes() -> None:
    now = datetime.now(UTC)
    for minutes in (-4, 4):
        assert flaw(signed(b"{}", now + timedelta(minutes=minutes))) is None
    late, early = (str(flaw(signed(b"{}", now + timedelta(minutes=minutes)))) for minutes in (-6, 6))
    assert late.startswith("Signature expired: ")
    assert "is now earlier than" in late
    assert early.startswith("Signature not yet current: ")
    assert "is still later than" in early


def test_the_scope_has_to_fit() -> None:
    now = datetime.now(UTC)
    assert flaw(signed(b"{}", now, service="s3")) == "Credential should be scoped to correct service: 'rekognition'."
    assert "Date in Credential scope" in str(flaw(signed(b"{}", now) | {"X-Amz-Date": "20200101T000000Z"}))
    assert "'X-Amz-Date'" in str(flaw(signed(b"{}", now) | {"X-Amz-Date": "yesterday"}))
    headers = signed(b"{}", now)
    headers["Authorization"] = headers["Authorization"].replace("SignedHeaders=host;", "SignedHeaders=")
    assert flaw(headers) == "'host' must be a 'SignedHeader' in the AWS Authorization."


def test_over_the_wire_a_skew_is_an_invalid_signature(start: Start) -> None:
    emulator = start(accepted_keys=KEYS)
    headers = signed(b"{}", datetime.now(UTC) - timedelta(hours=1), host=f"127.0.0.1:{emulator.port}")
    connection = HTTPConnection("127.0.0.1", emulator.port, timeout=10)
    connection.request("POST", "/", b"{}", headers)
    body = json.loads(connection.getresponse().read())
    connection.close()
    assert (body["__type"], body["message"][:17]) == ("InvalidSignatureException", "Signature expired")
    assert "s3cr3t" not in json.dumps(body)


def test_without_botocore_a_secret_cannot_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    find = sigv4.importlib.util.find_spec
    monkeypatch.setattr(sigv4.importlib.util, "find_spec", lambda name: None if name == "botocore" else find(name))
    vendors.wires(["aws"], {"aws": {"ID"}})
    with pytest.raises(ApibenchError, match="extra 'aws'"):
        vendors.wires(["aws"], {"aws": {"ID:SECRET"}})


def test_keys_are_those_of_a_provider(start: Start) -> None:
    emulator = start(providers=["aws", "azure"], accepted_keys={"azure": {"GOOD"}})
    assert ask(emulator, "anybody", "anything")["Labels"], "which names none"
    for key, expected in (("GOOD", 415), ("BAD", 401)):
        connection = HTTPConnection("127.0.0.1", emulator.port, timeout=10)
        connection.request("POST", "/vision/v3.2/tag", b"", {"Ocp-Apim-Subscription-Key": key})
        reply = connection.getresponse()
        assert (reply.status, b"BAD" in reply.read()) == (expected, False)
        connection.close()
    lines = emulator.describe()
    assert [line.endswith(", keys are checked") for line in lines] == [False, True, True]
    assert "GOOD" not in "".join(lines)
