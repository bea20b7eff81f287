"""TLS with an authority of the emulator's own, which real SDKs trust by its file and by nothing else."""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography")

from apibench.emulator import Emulator, tls
from apibench.errors import ApibenchError
from tests.emulation import Start, emulators, picture


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    return tmp_path / "made" / "ca.pem"


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    with emulators("aws") as started:
        yield started


def by_boto3(emulator: Emulator, verify: str | bool) -> Any:
    boto3 = pytest.importorskip("boto3")
    from botocore.config import Config

    client = boto3.client(
        "rekognition",
        endpoint_url=emulator.url,
        verify=verify,
        region_name="us-east-1",
        aws_access_key_id="EMULATED",
        aws_secret_access_key="emulated",
        config=Config(proxies={}, retries={"total_max_attempts": 1, "mode": "standard"}),
    )
    return client.detect_labels(Image={"Bytes": picture()})


def test_boto3_trusts_the_authority_and_signs_over_tls(start: Start, authority: Path) -> None:
    emulator = start(tls=authority, accepted_keys={"EMULATED:emulated"})
    assert emulator.url.startswith("https://127.0.0.1:")
    assert by_boto3(emulator, str(authority))["Labels"]
    exceptions = pytest.importorskip("botocore.exceptions")
    with pytest.raises(exceptions.SSLError):
        by_boto3(emulator, True)
    assert emulator.hits == {"answered": 1}


def test_azures_sdk_trusts_the_authority(start: Start, authority: Path) -> None:
    computervision = pytest.importorskip("azure.cognitiveservices.vision.computervision")
    from msrest.authentication import CognitiveServicesCredentials

    emulator = start(providers=["azure"], tls=authority)
    with computervision.ComputerVisionClient(emulator.url, CognitiveServicesCredentials("K")) as client:
        client.config.proxies.use_env_settings = False
        client.config.connection.verify = str(authority)
        assert client.tag_image_in_stream(io.BytesIO(picture())).tags


def test_googles_sdk_trusts_the_authority_over_grpc(start: Start, authority: Path) -> None:
    vision = pytest.importorskip("google.cloud.vision_v1")
    import grpc
    from google.cloud.vision_v1.services.image_annotator.transports import ImageAnnotatorGrpcTransport

    emulator = start(providers=["google"], tls=authority)
    trusted = grpc.ssl_channel_credentials(authority.read_bytes())
    target = emulator.grpc_url.removeprefix("https://")
    request = {"image": {"content": picture()}, "features": [{"type_": 4}]}
    for credentials in (trusted, grpc.ssl_channel_credentials()):
        with grpc.secure_channel(target, credentials, [("grpc.enable_http_proxy", 0)]) as channel:
            client = vision.ImageAnnotatorClient(transport=ImageAnnotatorGrpcTransport(channel=channel))
            asked = {"requests": [request], "metadata": [("x-goog-api-key", "K")], "retry": None, "timeout": 10}
            if credentials is trusted:
                assert client.batch_annotate_images(**asked).responses[0].label_annotations
            else:
                exceptions = pytest.importorskip("google.api_core.exceptions")
                with pytest.raises(exceptions.ServiceUnavailable):
                    client.batch_annotate_images(**asked)
    assert emulator.hits == {"answered": 1}


def connection(emulator: Emulator, authority: Path, host: str = "127.0.0.1") -> HTTPSConnection:
    context = ssl.create_default_context(cafile=str(authority))
    return HTTPSConnection(host, emulator.port, timeout=10, context=context)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_certificate_is_for_this_machine(start: Start, authority: Path, host: str) -> None:
    asking = connection(start(tls=authority), authority, host)
    for _ in range(2):  # the connection is kept
        asking.request("GET", "/")
        reply = asking.getresponse()
        assert reply.status == 404
        reply.read()
    asking.close()


def test_faults_are_the_same_over_tls(start: Start, authority: Path) -> None:
    emulator = start(providers=["azure"], tls=authority, faults=["drop", "reset", "truncated", "slow:0.2"])
    outcomes = []
    for _ in range(5):
        asking = connection(emulator, authority)
        headers = {"Ocp-Apim-Subscription-Key": "K", "Content-Type": "application/octet-stream"}
        try:
            asking.request("POST", "/vision/v3.2/tag", picture(), headers)
            outcomes.append("answered" if asking.getresponse().read() else "empty")
        except Exception as error:  # noqa: BLE001 - which one differs between libraries' versions
            outcomes.append("failed" if isinstance(error, OSError | Exception) else "")
        asking.close()
    assert outcomes == ["failed", "failed", "failed", "answered", "answered"]
    assert emulator.hits == {"drop": 1, "reset": 1, "truncated": 1, "slow": 1, "answered": 1}


def test_a_handshake_that_does_not_come_holds_up_nobody(start: Start, authority: Path) -> None:
    emulator = start(tls=authority)
    with socket.create_connection(("127.0.0.1", emulator.port), timeout=10) as silent:
        silent.sendall(b"\x16\x03")
        asking = connection(emulator, authority)
        asking.request("GET", "/")
        assert asking.getresponse().status == 404
        asking.close()


def test_each_emulator_has_its_own_authority_and_its_key_is_nowhere(start: Start, tmp_path: Path) -> None:
    first, second = tmp_path / "1.pem", tmp_path / "2.pem"
    emulator = start(tls=first)
    start(tls=second)
    assert b"PRIVATE" not in first.read_bytes() + second.read_bytes()
    with pytest.raises(ssl.SSLCertVerificationError):
        connection(emulator, second).request("GET", "/")


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ApibenchError, match=f"{tmp_path}: the CA's certificate cannot be written"):
        tls.Certificate(b"", b"", b"").publish(tmp_path)
    monkeypatch.setattr(tls.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ApibenchError, match="pip install cryptography"):
        tls.Certificate.make("127.0.0.1")
