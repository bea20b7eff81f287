"""A classifier in an ONNX file, run by onnxruntime: ``local:onnx:PATH[?mean=...&std=...&size=...]``.

The model takes one input, float32 of (N, 3, height, width) or (N, height, width, 3), and its first output are logits of (N, 1000)
in ImageNet's order. The whole image is resized to the input's size (``size``, where the file leaves it open; 224 otherwise),
bilinear, antialiased and not cropped, and normalised by ``mean`` and ``std`` of [0, 1] pixels, one number or three (ImageNet's
unless said), as :mod:`apibench.classifiers` does. onnxruntime is imported by :func:`load` alone.
"""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from apibench.query.contract import ErrorKind, ProviderError
from apibench_adapters.common import redact

if TYPE_CHECKING:
    from apibench.emulator.answerer import Classify, Pixels, Probabilities

SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Model:
    """What a name says. Raises ValueError naming what is wrong with it."""

    path: Path
    options: str
    size: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, name: str) -> Model:
        location, _, query = name.removeprefix("onnx:").partition("?")
        path = Path(location).expanduser()
        if not path.is_file():
            raise ValueError(f"classifier: onnx:{location}: no such file; write local:onnx:PATH")
        given = dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
        if unknown := set(given) - {"mean", "std", "size"}:
            raise ValueError(f"classifier: unknown option {sorted(unknown)[0]!r}; there are mean, std, size")
        size = given.get("size")
        if size is not None and not (size.isdecimal() and 8 <= int(size) <= 4096):
            raise ValueError(f"classifier: size {size!r} is not a number of pixels")
        std = _three("std", given.get("std"), STD)
        if min(std) <= 0:
            raise ValueError("classifier: std must be above 0")
        return cls(path, query, int(size) if size else None, _three("mean", given.get("mean"), MEAN), std)


def _three(name: str, given: str | None, otherwise: tuple[float, ...]) -> tuple[float, ...]:
    if given is None:
        return otherwise
    try:
        numbers = tuple(float(number) for number in given.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3) or not np.isfinite(numbers).all():
        raise ValueError(f"classifier: {name} {given!r} is not one number or three, like 0.5,0.5,0.5")
    return numbers * 3 if len(numbers) == 1 else numbers


def canonical(name: str) -> str:
    """The name as the store has it: no folder of this machine, and the start of the file's SHA-256."""
    model = Model.of(name)
    digest = hashlib.sha256(model.path.read_bytes()).hexdigest()[:12]
    return f"onnx:{model.path.name}{f'?{model.options}' if model.options else ''}#{digest}"


def load(name: str) -> Classify:
    """Upright RGB pixels (H, W, 3), uint8, to probabilities (1000,). Raises ProviderError for a file that is no such model."""
    # It has no types. Its absence is told by whoever asked for a provider, with the extra that brings it.
    onnxruntime = importlib.import_module("onnxruntime")
    model = Model.of(name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            str(model.path), sess_options=options, providers=["CPUExecutionProvider"]
        )
        (given,) = session.get_inputs()
        first = session.get_outputs()[0].name
        channels_first, height, width = _layout(list(given.shape), model.size)
    except Exception as error:  # noqa: BLE001 - of a file that is none it raises what it likes
        why = redact(f"{type(error).__name__}: {error}", most=200)
        raise ProviderError(ErrorKind.CREDENTIALS, f"onnx:{model.path.name}: not a model of images ({why})") from None
    mean, std = np.array(model.mean, dtype=np.float32), np.array(model.std, dtype=np.float32)

    def classify(pixels: Pixels) -> Probabilities:
        resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        x = (np.asarray(resized, dtype=np.float32) / np.float32(255) - mean) / std
        x = x.transpose(2, 0, 1) if channels_first else x
        logits = np.asarray(session.run([first], {given.name: np.ascontiguousarray(x[None])})[0], dtype=np.float64)
        powers = np.exp(logits[0] - logits[0].max())
        found: Probabilities = powers / powers.sum()
        return found

    return classify


def _layout(shape: list[object], size: int | None) -> tuple[bool, int, int]:
    """Whether channels come before rows, height and width."""
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise ValueError(f"an input of shape {shape}, not (N, 3, height, width) or (N, height, width, 3)")
    channels_first = shape[1] == 3
    sides = shape[2:] if channels_first else shape[1:3]
    height, width = (side if isinstance(side, int) and side > 0 else size or SIZE for side in sides)
    return channels_first, height, width
