"""``apibench controls``: mere distortion, as far from each clean image as an attack's image is, to tell an attack from it.

Noise and blur at the same distance are what an attack has to be better than: what a classifier loses to them already is no merit
of the attack (Goodman, Wei: Cloud-based Image Classification Service Is Not Robust to Simple Transformations, arXiv 1906.07997).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft
from scipy.special import ndtr, ndtri

from apibench._torch import torch
from apibench.attacks.catalogue import L2, LINF
from apibench.distortion import LEVELS, Noise, difference, linf, measured, square
from apibench.draws import Draws, generator
from apibench.environment import machine
from apibench.errors import ApibenchError
from apibench.imageset import ImageSet, Pixels, SetWriter
from apibench.pixels import sources_sha256
from apibench.progress import Progress

Floats = npt.NDArray[np.float64]

UNIFORM, SIGN, GAUSSIAN, BLUR = KINDS = ("uniform", "sign", "gaussian", "blur")
CLOSE = 0.01  # an L2 this share below the wanted one counts as the same
HALVINGS = 40
SIGMAS = tuple(0.1 * 2 ** (step / 2) for step in range(25))  # of a blur, in pixels: up to 410


@dataclass(frozen=True)
class ControlSettings:
    """``kind`` of distortion, and the ``match``: in which norm it is as large as the other set's, ``linf`` or ``l2``."""

    kind: str
    match: str
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind}: no such distortion; there are {', '.join(KINDS)}")
        if self.match not in (LINF, L2):
            raise ValueError(f"{self.match}: no such norm; there are {LINF}, {L2}")

    def variant(self, like: str) -> str:
        """What the images are called: ``sign-noise/eps8`` for those in L-infinity like ``mi-di/eps8``.

        Matched in another norm than the attack is bounded in, the attack decides how large that is, and is named:
        ``sign-noise/l2-as-mi-di/eps8``.
        """
        own = self.kind if self.kind == BLUR else f"{self.kind}-noise"
        found = re.fullmatch(r"(.*)/(eps\d+|l2-[^/]+)", like)
        name, bound = (found[1], found[2]) if found else (like, "")
        bounded_in = {"e": LINF, "l": L2}.get(bound[:1])
        parts = [own, *([] if bounded_in == self.match else [f"{self.match}-as-{name.replace('/', '-')}"]), bound]
        return "/".join(part for part in parts if part)


@dataclass(frozen=True)
class Controlled:
    """What a run of the stage did. ``short``: the ids of images whose distance could not be reached."""

    images: ImageSet
    made: int
    kept: int
    short: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()


def control(clean: ImageSet, like: ImageSet, out: Path, settings: ControlSettings) -> Controlled:
    """Distort each clean image that ``like`` has an adversarial one of; what is already in ``out`` stays untouched.

    A record's ``extra``: ``linf``, ``l2``, ``ssim`` and ``gradients`` (0) as an attack's; ``wanted``: how far the adversarial
    image is, in levels of 255 or for pixels in [0, 1]; ``reached``: whether this one is too, exactly or (``l2``) to within 1 %.
    Raises ApibenchError where ``clean`` is not clean, ``like`` is not adversarial, or the two have no photograph in common.
    """
    variant = settings.variant(_variant(clean, like))
    by_source = {record.source: record for record in like.records}
    pairs = [(record, by_source[record.source]) for record in clean.records if record.source in by_source]
    if not pairs:
        raise ApibenchError(f"{like.folder}: none of its images was made from one of {clean.folder}")
    about_control = {"kind": settings.kind, "match": settings.match, "seed": settings.seed}
    recipe = {
        "stage": "controls",
        **about_control,
        "images": len(pairs),
        "images_sha256": sources_sha256([record for record, _ in pairs]),
        "like": like.records[0].variant,
        "like_sha256": sources_sha256([record for _, record in pairs]),
    }
    writer = SetWriter(out, recipe)
    todo = [pair for pair in pairs if writer.done(pair[0].id) is None]
    failed: dict[str, str] = {}
    about = machine("cpu")
    for record, other in Progress(todo, variant, unit="image"):
        try:
            before, adversarial = clean.read_pixels(record), like.read_pixels(other)
            if before.shape != adversarial.shape:
                raise ApibenchError(f"{like.path(other)}: has not the size of {clean.path(record)}")
        except ApibenchError as error:
            failed[record.id] = str(error)
            continue
        pixels, extra = distort(before, adversarial, settings, record.pixels_sha256)
        writer.write(
            record.id,
            pixels,
            variant=variant,
            source=record.source,
            label=other.label,
            label_source=other.label_source,
            settings={"control": {**about_control, "like": other.variant}},
            extra=extra,
            **about,
        )
    if len(failed) == len(pairs):
        raise ApibenchError(
            f"{clean.folder}: not one of its images can be distorted; the first:\n{next(iter(failed.values()))}"
        )
    images = writer.finish(record.id for record, _ in pairs if record.id not in failed)
    assert images is not None
    short = tuple(record.id for record in images.records if not record.extra["reached"])
    return Controlled(images, len(todo) - len(failed), len(pairs) - len(todo), short, tuple(failed.items()))


def _variant(clean: ImageSet, like: ImageSet) -> str:
    """The attack that made ``like``."""
    if any(record.variant != "clean" for record in clean.records):
        raise ApibenchError(f"{clean.folder}: is not a clean set, but {clean.records[0].variant!r}")
    variants = sorted({record.variant for record in like.records})
    if len(variants) > 1:
        raise ApibenchError(f"{like.folder}: holds images of more than one attack ({', '.join(variants[:3])})")
    if variants == ["clean"] or "+" in variants[0]:
        raise ApibenchError(
            f"{like.folder}: is {variants[0]!r}; give a set that 'apibench generate' made, not purified"
        )
    return variants[0]


def distort(
    clean: Pixels, adversarial: Pixels, settings: ControlSettings, identity: str
) -> tuple[Pixels, dict[str, Any]]:
    """One image, (H, W, 3), as far from ``clean`` as ``adversarial`` is, and its record's ``extra``."""
    noise = difference(clean, adversarial)
    draws = Draws([generator(settings.seed, f"{settings.kind}/{identity}")])
    wanted: float
    if settings.match == LINF:
        found = _within_linf(clean, noise, settings.kind, draws)
        wanted, reached = linf(noise), linf(found) == linf(noise)
    else:
        found = _within_l2(clean, square(noise), settings.kind, draws)
        wanted = round(math.sqrt(square(noise)) / LEVELS, 6)
        reached = square(found) >= (1 - CLOSE) ** 2 * square(noise)
    pixels = (clean + found).astype(np.uint8)
    return pixels, {**measured(clean, pixels), "gradients": 0, "wanted": wanted, "reached": reached}


# --- at the same L-infinity ---


def _within_linf(clean: Pixels, noise: Noise, kind: str, draws: Draws) -> Noise:
    """Of the largest value that ``noise`` has, wherever the picture lets it be."""
    bound = linf(noise)
    if bound == 0:
        return np.zeros_like(noise)
    if kind == BLUR:
        return _blurred(clean, lambda found: linf(found) <= bound)
    drawn = _bounded(kind, bound, clean.shape, draws)
    found = _left(clean, drawn)
    if linf(found) < bound:
        # So small or so dark a picture that no value came out at the bound: one does, where the noise's own can.
        place = np.unravel_index(np.abs(noise).argmax(), noise.shape)
        found[place] = noise[place]
    return found


def _bounded(kind: str, bound: int, shape: tuple[int, ...], draws: Draws) -> Floats:
    """Whole levels from -bound to bound: all alike (``uniform``), only the two ends (``sign``), or of a Gaussian of width
    bound / 2 that is cut off there (``gaussian``)."""
    drawn = _uniform(shape, draws)
    if kind == UNIFORM:
        return np.floor(drawn * (bound + 0.5) + 0.5)
    if kind == SIGN:
        return bound * _signs(drawn)
    # From -1 to 1 evenly, through the inverse of the distribution: the truncated Gaussian.
    return np.rint(ndtri(0.5 + drawn * (0.5 - ndtr(-2.0))) * bound / 2)


# --- at the same L2 ---


def _within_l2(clean: Pixels, wanted: int, kind: str, draws: Draws) -> Noise:
    """Of the largest sum of squares, in levels, that is not above ``wanted``, along one growing distortion."""
    if kind == BLUR:
        return _blurred(clean, lambda found: square(found) <= wanted)
    offset: Floats | float = 0.5  # rounded to the nearest level
    if kind == GAUSSIAN:
        direction = draws.normal(torch.empty(1, *clean.shape), 1.0)[0].double().numpy()
    else:
        direction = _uniform(clean.shape, draws)
    if kind == SIGN:
        # All of one size, they would all be rounded alike, and most sums of squares could not be had: each has its own threshold.
        direction, offset = _signs(direction), _uniform(clean.shape, draws) / 2 + 0.5

    def grown(size: float) -> Noise:
        return _left(clean, np.sign(direction) * np.floor(np.abs(direction) * size + offset))

    return _largest(grown, 0.0, 2.0 * LEVELS, lambda found: square(found) <= wanted)


def _uniform(shape: tuple[int, ...], draws: Draws) -> Floats:
    """In [-1, 1)."""
    drawn: Floats = draws.uniform(torch.empty(1, *shape), 1.0)[0].double().numpy()
    return drawn


def _signs(drawn: Floats) -> Floats:
    return np.where(drawn < 0, -1.0, 1.0)


def _left(clean: Pixels, drawn: Floats) -> Noise:
    """What is left of noise when the picture is cut off at 0 and 255."""
    left: Noise = np.clip(clean + drawn, 0, LEVELS).astype(np.int16) - clean
    return left


# --- blur, in either ---


def _blurred(clean: Pixels, inside: Callable[[Noise], bool]) -> Noise:
    """The difference that the widest blur makes, up to the first one that is not ``inside``.

    A Gaussian blur of the picture mirrored at its borders is a factor exp(-(sigma * pi * k / N)^2 / 2) on each coefficient of
    its cosine transform (DCT-II), exact for any width; the widest leaves little but the mean colour.
    """
    spectrum = fft.dctn(clean.astype(np.float64), axes=(0, 1), norm="ortho")
    height, width, _ = clean.shape
    rows, columns = np.arange(height)[:, None, None] / height, np.arange(width)[None, :, None] / width
    frequency = (np.pi**2 / 2) * (rows**2 + columns**2)

    def blurred(sigma: float) -> Noise:
        smooth = fft.idctn(spectrum * np.exp(-(sigma**2) * frequency), axes=(0, 1), norm="ortho")
        return _left(clean, np.rint(smooth) - clean)

    lower = 0.0
    for sigma in SIGMAS:
        if not inside(blurred(sigma)):
            return _largest(blurred, lower, sigma, inside)
        lower = sigma
    return blurred(lower)


def _largest(grown: Callable[[float], Noise], lower: float, upper: float, inside: Callable[[Noise], bool]) -> Noise:
    """The noise of the largest size between ``lower``, which is inside, and ``upper`` that is: by halving."""
    best = grown(lower)
    for _ in range(HALVINGS):
        middle = (lower + upper) / 2
        found = grown(middle)
        if inside(found):
            best, lower = found, middle
        else:
            upper = middle
    return best
