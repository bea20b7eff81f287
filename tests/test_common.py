"""What the adapters share: whom a key may reach, and what is kept of an error."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest
from apibench_adapters.common import MOST_KEPT, check_endpoint, redact, redact_body
from hypothesis import given, settings
from hypothesis import strategies as st

from apibench.query import registry
from apibench.query.contract import EncodedImage, ErrorKind, ProviderError, ProviderOptions

VENDORS = ("aws", "azure", "clarifai", "google")
# Readers of URLs do not agree on the host of these, or cannot read them at all.
FORGED = [
    "https://evil.invalid\\@127.0.0.1:9",
    "https://127.0.0.1:9\\@evil.invalid",
    "https://evil.invalid#@127.0.0.1",
    "https://evil.invalid?@127.0.0.1",
    "https://127.0.0.1@evil.invalid",
    "https://user:password@127.0.0.1",
    "https://127.0.0.1 .evil.invalid",
    "https://[::1",
    "https://127.0.0.1:99999",
    "https://127.0.0.1:0",
    "https://127.0.0.1:x",
    "https://",
    "127.0.0.1:9",
    "file:///etc/passwd",
    "",
]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of every vendor: none of them may go to a forged host."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "VISION_KEY", "CLARIFAI_PAT", "GOOGLE_API_KEY"):
        monkeypatch.setenv(name, "synthetic")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("emulated", [True, False], ids=["emulated", "real"])
@pytest.mark.parametrize("vendor", VENDORS)
def test_an_address_that_can_be_read_in_two_ways_is_refused_before_anything_is_sent(
    vendor: str, emulated: bool, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *about, **_: pytest.fail(f"looked up {about[0]}"))
    adapter = registry.adapter(vendor)
    for forged in FORGED:
        endpoint = forged.replace("https:", f"{scheme}:")
        if not endpoint and vendor != "azure" and not emulated:
            continue  # for the others no endpoint is the SDK's own choice
        with pytest.raises(ProviderError) as caught:
            adapter.create(ProviderOptions(endpoint=endpoint, emulated=emulated)).label(
                [EncodedImage(b"image", "0" * 64)]
            )
        assert caught.value.kind is ErrorKind.CREDENTIALS, endpoint
        assert "password" not in caught.value.message


@pytest.mark.parametrize(
    "endpoint", ["https://api.example", "https://api.example:8443/", "https://10.0.0.1/a/b", "https://[fd00::1]:444"]
)
def test_a_plain_https_address_is_taken(endpoint: str) -> None:
    check_endpoint(endpoint, emulated=False)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:5"])
def test_an_emulator_is_on_this_machine(endpoint: str) -> None:
    check_endpoint(endpoint, emulated=True)


@pytest.mark.parametrize(
    "body", [b"secret_" * 100_000, b"secret" * 100_000, b"\0" * 3_000_000, b"a" * 3_000_000, b"token = " * 100_000]
)
def test_an_error_of_any_size_is_redacted_in_no_time_and_kept_in_part(body: bytes) -> None:
    started = time.process_time()
    assert len(redact_body(body)) <= MOST_KEPT + 100
    redact(body.decode())
    assert time.process_time() - started < 2, "it took half a minute, by a pattern that looked back again and again"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 80), st.integers(0, 60))
def test_no_half_of_a_key_is_left_where_a_message_is_cut_off(before: int, short: int) -> None:
    key: Any = "Zx9" * 20
    said = "w " * ((4_000 - short) // 2) + "x" * before + key
    assert key[:20] not in redact(said[: 4_000 + before] + key)
    assert key[:20] not in redact_body(("w " * ((MOST_KEPT - short) // 2) + key).encode()).decode()
