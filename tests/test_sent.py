"""What never left this machine is said to be so, on every wire: it counts against no cap."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from apibench.query import registry
from apibench.query.contract import EncodedImage, ErrorKind, Outcome, ProviderError, ProviderOptions
from tests.servers import http_server, reset

WIRES: dict[str, tuple[str, dict[str, str]]] = {
    "aws": ("aws", {}),
    "azure": ("azure", {}),
    "clarifai": ("clarifai", {}),
    "google": ("google", {}),
    "google over REST": ("google", {"transport": "rest"}),
}


def ask(wire: str, **options: Any) -> Outcome:
    name, settings = WIRES[wire]
    provider = registry.adapter(name).create(ProviderOptions(settings=settings, **{"timeout": 3.0} | options))
    try:
        (outcome,) = provider.label([EncodedImage(b"image", "0" * 64)])
        return outcome
    finally:
        provider.close()


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "VISION_KEY", "CLARIFAI_PAT", "GOOGLE_API_KEY"):
        monkeypatch.setenv(name, "synthetic")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.mark.parametrize("wire", WIRES)
def test_a_closed_port_was_sent_nothing(wire: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = ask(wire, endpoint=f"http://127.0.0.1:{port}", emulated=True)
    assert isinstance(error, ProviderError)
    assert (error.kind, error.sent, error.uncertain) == (ErrorKind.TRANSIENT, False, False)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("wire", WIRES)
def test_a_name_that_does_not_resolve_was_sent_nothing(wire: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With real keys: gRPC's own resolver, or (as the tests' proxy is not there either) a proxy that refuses."""

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = ask(wire, endpoint="https://nowhere.invalid")
    assert isinstance(error, ProviderError)
    assert (error.kind, error.sent, error.uncertain) == (ErrorKind.TRANSIENT, False, False)


@pytest.mark.parametrize("wire", WIRES)
def test_a_connection_that_breaks_may_have_brought_the_request(wire: str) -> None:
    with http_server(reset) as (url, _):
        error = ask(wire, endpoint=url, emulated=True)
    assert isinstance(error, ProviderError)
    assert (error.sent, error.uncertain) == (True, True)
