"""From image bytes to class probabilities: decode, classify, remember. Common to all wires."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from apibench.errors import ApibenchError

if TYPE_CHECKING:
    from apibench.classifiers import Classifier

Pixels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float64]
# (H, W, 3) uint8, upright RGB -> (1000,) probabilities.
Classify = Callable[[Pixels], Probabilities]

CLASSES = 1000
# Said in every reply and on every bill: no reader may take such labels for a classifier's.
RANDOM = "random-labels-no-classifier"
# Larger images are shrunk before they become floats: networks see some hundred pixels a side, and 10,000 a side in float32
# would take 1.2 GB.
MAX_SIDE = 2048
REMEMBERED = 4096


class Refusal(StrEnum):
    """Why an image is not looked at."""

    FORMAT = "format"  # not an image, not of an accepted format, or not decodable
    TOO_SMALL = "too small"
    TOO_LARGE = "too large"  # in pixels
    FAILED = "failed"  # on demand: the service could not deal with it


class ImageRefusedError(Exception):
    """An image that the vendor would not take. ``width`` and ``height`` are None where they could not be read."""

    def __init__(self, reason: Refusal, width: int | None = None, height: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.width = width
        self.height = height


@dataclass(frozen=True)
class Limits:
    """What a vendor accepts: Pillow's format names, pixels a side, and pixels altogether, if that is limited."""

    formats: tuple[str, ...]
    min_side: int
    max_side: int
    max_pixels: int | None = None


class Answerer:
    """Answers images with the probabilities of one network. Safe to call from several threads; it computes one at a time.

    ``name`` is the network's, as a reply's model version names it. The last ``remembered`` answers are kept by the SHA-256
    of the image's bytes.
    """

    def __init__(self, classify: Classify, name: str, *, remembered: int = REMEMBERED) -> None:
        self.name = name
        self._classify = classify
        self._remembered = remembered
        self._known: OrderedDict[str, Probabilities] = OrderedDict()
        # One at a time: two forward passes on the same cores are no faster, and large images need memory.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, target: str) -> Answerer:
        """The classifier of that name (see :mod:`apibench.classifiers`), tried once. Raises ApibenchError if there is none."""
        from apibench import classifiers

        classifier = classifiers.load(target)
        classify = _softmax_of(classifier)
        if classify(np.full((64, 64, 3), 127, dtype=np.uint8)).shape != (CLASSES,):
            raise ApibenchError(f"{classifier.name}: does not tell ImageNet's {CLASSES} classes apart")
        return cls(classify, classifier.name)

    @classmethod
    def random(cls) -> Answerer:
        """Labels that mean nothing, for tests of clients and of load: no network, no torch. Equal pixels get equal labels.

        Replies name :data:`RANDOM` where they would name the network.
        """
        return cls(_by_hash, RANDOM)

    def probabilities(self, data: bytes, limits: Limits) -> Probabilities:
        """(1000,) float64 that sum to 1. Raises ImageRefusedError for what ``limits`` exclude, before any pixel is decoded."""
        image = _open(data, limits)
        key = hashlib.sha256(data).hexdigest()
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
            found = np.asarray(self._classify(_decode(image)), dtype=np.float64)
            if found.shape != (CLASSES,) or not np.isfinite(found).all():
                raise ValueError(f"{self.name}: the network gave no {CLASSES} finite probabilities")
            self._known[key] = found
            while len(self._known) > self._remembered:
                self._known.popitem(last=False)
            return found


class FailingAnswerer(Answerer):
    """Refuses images on demand, the first ``count`` or all of them, and leaves the others to ``inner``. Made for one request."""

    def __init__(self, inner: Answerer, reason: Refusal, count: int | None = None) -> None:
        self.name = inner.name
        self._inner = inner
        self._reason = reason
        self._left = count

    def probabilities(self, data: bytes, limits: Limits) -> Probabilities:
        if self._left is None:
            raise ImageRefusedError(self._reason)
        if self._left > 0:
            self._left -= 1
            raise ImageRefusedError(self._reason)
        return self._inner.probabilities(data, limits)


def _by_hash(pixels: Pixels) -> Probabilities:
    """Five classes drawn by the pixels' hash, the first with half of the weight, the next with half of the rest, ..."""
    seed = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
    found: Probabilities = np.zeros(CLASSES)
    found[np.random.default_rng(list(seed)).choice(CLASSES, size=5, replace=False)] = [16, 8, 4, 2, 1]
    found /= found.sum()
    return found


def _open(data: bytes, limits: Limits) -> Image.Image:
    """Read the header. Nothing is decoded, so a bomb costs nothing."""
    try:
        image = Image.open(BytesIO(data), formats=limits.formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageRefusedError(Refusal.TOO_LARGE) from error
    except Exception as error:  # a reader of hostile bytes raises whatever they make it raise
        raise ImageRefusedError(Refusal.FORMAT) from error
    too_many = limits.max_pixels is not None and image.width * image.height > limits.max_pixels
    if too_many or max(image.size) > limits.max_side:
        raise ImageRefusedError(Refusal.TOO_LARGE, *image.size)
    if min(image.size) < limits.min_side:
        raise ImageRefusedError(Refusal.TOO_SMALL, *image.size)
    return image


def _decode(image: Image.Image) -> Pixels:
    """Upright RGB, transparency on white, the longest side at most MAX_SIDE."""
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip
            grey = np.clip(np.rint(np.asarray(image, dtype=np.float64) / 257.0), 0, 255)
            image = Image.fromarray(grey.astype(np.uint8))
        elif image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
        image = image.convert("RGB")
    except Exception as error:  # as above
        raise ImageRefusedError(Refusal.FORMAT, *image.size) from error
    if max(image.size) > MAX_SIDE:
        image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def _softmax_of(classifier: Classifier) -> Classify:
    """A network's logits as probabilities, computed in float64 from the float32 logits."""
    from apibench._torch import torch
    from apibench.pixels import to_tensor

    def classify(pixels: Pixels) -> Probabilities:
        # The flag is one of the thread, and a handler's thread may descend from one that had not set it.
        torch.set_flush_denormal(True)
        with torch.inference_mode():
            logits = classifier(to_tensor(pixels))
            probabilities: Probabilities = logits[0].double().softmax(0).numpy()
        return probabilities

    return classify
