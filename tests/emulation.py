"""Emulators for tests: a tiny classifier behind them, and images that it tells apart."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from apibench.emulator import Answerer, Emulator
from apibench.emulator.answerer import Pixels, Probabilities

RETRIEVER, LABRADOR, PIZZA = 207, 208, 963

Start = Callable[..., Emulator]


@contextmanager
def emulators(provider: str) -> Iterator[Start]:
    """Starts emulators of one provider with the tiny classifier, unless told otherwise, and stops them."""
    running: list[Emulator] = []

    def started(**options: Any) -> Emulator:
        chosen = dict[str, Any](answerer=Answerer(by_colour, "tiny"), providers=[provider]) | options
        running.append(Emulator(**chosen).start())
        return running[-1]

    yield started
    for emulator in running:
        emulator.close()


def by_colour(pixels: Pixels) -> Probabilities:
    """A tiny classifier: red is a golden retriever, green a labrador, blue a pizza, by their shares of the light."""
    light = pixels.reshape(-1, 3).mean(axis=0) + 1e-3
    found = np.zeros(1000)
    found[[RETRIEVER, LABRADOR, PIZZA]] = light / light.sum()
    return found


def encode(pixels: Any, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def picture(red: int = 200, green: int = 40, blue: int = 10, size: tuple[int, int] = (96, 96)) -> bytes:
    return encode(Image.new("RGB", size, (red, green, blue)))


def bomb(side: int) -> bytes:
    """A PNG that says it has ``side`` pixels a side and holds none of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
