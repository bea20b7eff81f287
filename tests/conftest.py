"""Shared by all tests: tiny pictures and tiny networks, so that nothing here needs trained weights or a network."""

from __future__ import annotations

import gc
import ipaddress
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apibench._torch import torch
from apibench.classifiers import Classifier, InputSettings
from apibench.imageset import ImageSet, Pixels, SetWriter

Painter = Callable[..., Pixels]


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test can reach a real host: Python's sockets refuse any other, and gRPC's own would go to a proxy that is not there.

    The proxy also shows that what is emulated heeds none: every client asks it, for loopback too, unless told not to.
    """
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not ipaddress.ip_address(address[0]).is_loopback:
            pytest.fail(f"a test wants to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy"):
        for spelling in (name, name.upper()):
            monkeypatch.setenv(spelling, "http://127.0.0.1:1")
    for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """For JSON nested beyond the interpreter's depth: what is collected down there, of other tests too, cannot be finalised."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def paint(seed: int = 0, height: int = 48, width: int = 64) -> Pixels:
    """A smooth, colourful picture with a little noise: (H, W, 3) uint8."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(6 * (draw.uniform(0.3, 2) * x + draw.uniform(0.3, 2) * y) + draw.uniform(0, 6)) for _ in range(3)]
    picture = 127 + 90 * np.stack(waves, axis=-1) + draw.normal(0, 4, (height, width, 3))
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


class TinyNetwork(torch.nn.Module):
    """Random but fixed: a few convolutions and ten classes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = torch.nn.Sequential(
                torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
                torch.nn.Tanh(),
                torch.nn.Conv2d(8, 8, 3, stride=2, padding=1),
                torch.nn.Tanh(),
                torch.nn.AdaptiveAvgPool2d(2),
                torch.nn.Flatten(),
                torch.nn.Linear(32, 10),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        return 5 * y


def tiny_classifier(seed: int = 0, size: int = 32) -> Classifier:
    return Classifier(f"tiny:{seed}", TinyNetwork(seed), InputSettings(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of five small photographs with labels."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    lines = ["file,label"]
    for i in range(5):
        Image.fromarray(paint(i)).save(folder / f"photo{i}.png")
        lines.append(f"photo{i}.png,{i}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def clean_set(tmp_path: Path) -> ImageSet:
    """A clean set of five small images, labelled."""
    writer = SetWriter(tmp_path / "clean", {"stage": "import"})
    for i in range(5):
        writer.write(f"photo{i}", paint(i), variant="clean", label=i, label_source="given")
    finished = writer.finish(f"photo{i}" for i in range(5))
    assert finished is not None
    return finished
