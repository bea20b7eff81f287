"""Tests of a program that asks Rekognition, against the emulator: an answer, a retry, and an image that is paid twice.

``labels_of`` stands for the program. Run it with pytest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError
from PIL import Image

from apibench.emulator import Answerer, Emulator


@pytest.fixture
def emulator() -> Iterator[Callable[..., Emulator]]:
    """Starts emulators, with the faults that a test asks for, and stops them."""
    started: list[Emulator] = []

    def start(**options: Any) -> Emulator:
        started.append(Emulator(providers=["aws"], answerer=Answerer.random(), **options).start())
        return started[-1]

    yield start
    for each in started:
        each.close()


def labels_of(image: bytes, endpoint: str, attempts: int = 3) -> list[str]:
    client = boto3.client(
        "rekognition",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="EMULATED",
        aws_secret_access_key="emulated",  # noqa: S106 - it opens nothing
        config=Config(proxies={}, retries={"total_max_attempts": attempts, "mode": "standard"}),
    )
    return [label["Name"] for label in client.detect_labels(Image={"Bytes": image}, MinConfidence=1)["Labels"]]


@pytest.fixture
def image() -> bytes:
    buffer = BytesIO()
    Image.radial_gradient("L").save(buffer, "PNG")
    return buffer.getvalue()


def test_labels_come_back(emulator: Callable[..., Emulator], image: bytes) -> None:
    running = emulator()
    assert labels_of(image, running.url)
    assert running.hits == {"answered": 1}


def test_a_throttled_request_is_sent_again(emulator: Callable[..., Emulator], image: bytes) -> None:
    running = emulator(faults=["throttle"])
    assert labels_of(image, running.url)
    assert running.hits == {"ThrottlingException": 1, "answered": 1}
    assert running.bill["aws"] == 1


def test_a_lost_answer_is_paid_and_paid_again_by_a_retry(emulator: Callable[..., Emulator], image: bytes) -> None:
    running = emulator(faults=["drop-after", "ok", "drop-after"])
    assert labels_of(image, running.url)
    assert running.bill["aws"] == 2
    with pytest.raises(ConnectionClosedError):
        labels_of(image, running.url, attempts=1)
