"""``apibench analyze``: adversarial sets beside the clean set they were made from, image by image, in memory that does not grow.

Tests the observation that NCIS rests on (Cha et al., arXiv 2106.11644): by patch, what an attack adds has a mean close to zero
and a symmetric distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image

from apibench import text
from apibench.errors import ApibenchError
from apibench.evaluation import noise_controls as controls
from apibench.evaluation.noise import PATCH, Floats, Noise, difference, tiles
from apibench.evaluation.noise_histograms import Histogram
from apibench.evaluation.noise_patches import PatchTable, image_sums, tabulate
from apibench.evaluation.spectra import Smoothed, Spectrum
from apibench.imageset import ImageRecord, ImageSet, Pixels
from apibench.progress import Progress

MEAN_WIDTH = 1 / 16  # levels: the bins of the histogram of patch means


class NoiseMeasures:
    """Everything that is measured of one kind of noise; grows by a few kilobytes an image."""

    def __init__(self) -> None:
        self._sums: list[Floats] = []
        self.pixels = Histogram(1)
        self.means = Histogram(MEAN_WIDTH)  # of PATCH × PATCH tiles
        self.spectrum = Spectrum()
        self.smoothed = Smoothed()
        self.bound = 0  # the largest absolute value, in levels

    def add(self, noise: Noise) -> None:
        """``noise``: (H, W, 3) int16 levels."""
        self._sums.append(image_sums(noise))
        self.pixels.add(noise)
        self.means.add(tiles(noise, PATCH).mean(axis=2))
        self.spectrum.add(noise)
        self.smoothed.add(noise)
        self.bound = max(self.bound, int(np.abs(noise).max()))

    @property
    def images(self) -> int:
        return len(self._sums)

    @cached_property
    def table(self) -> PatchTable:
        return tabulate(self._sums)


@dataclass(frozen=True)
class SetAnalysis:
    """One adversarial set. ``noises``: the attack first, then the controls by name; ``photographs``: of the same images."""

    name: str
    folder: str
    surrogates: tuple[str, ...]
    noises: dict[str, NoiseMeasures]
    photographs: Spectrum
    smoothed: Smoothed  # the same photographs
    unattacked: tuple[str, ...]  # ids of clean images that this set has no variant of
    repeated: int  # images whose clean image was met before in this set
    failed: tuple[tuple[str, str], ...]  # (id, reason)

    @property
    def attack(self) -> NoiseMeasures:
        return self.noises[controls.ATTACK]


def analyse(
    clean: ImageSet, adversarial: Sequence[ImageSet], *, seed: int = 0, synthetic: bool = True
) -> list[SetAnalysis]:
    """Measure the noise of each set; ``synthetic`` adds uniform, gaussian and sign noise of each image's own L-infinity.

    Images are matched by the clean image's identity. Raises ApibenchError where a set is not what it is given as, and where
    not one pair of all sets can be measured; single images that cannot are in ``failed``.
    """
    _check_clean(clean)
    for images in adversarial:
        _check_adversarial(images)
    names = _names(adversarial)
    found = [_analyse(clean, images, name, seed, synthetic) for images, name in zip(adversarial, names, strict=True)]
    if not any(one.attack.images for one in found):
        reasons = [reason for one in found for _, reason in one.failed]
        raise ApibenchError(f"no image can be compared with its clean one; the first:\n{text.plain(reasons[0], 300)}")
    return found


def _check_clean(images: ImageSet) -> None:
    other = next((record for record in images.records if record.variant != "clean"), None)
    if other is not None:
        raise ApibenchError(f"--clean {images.folder}: {other.id} is not clean but {text.plain(other.variant, 80)}")


def _check_adversarial(images: ImageSet) -> None:
    variants = sorted({record.variant for record in images.records})
    where = f"--adversarial {images.folder}"
    if len(variants) > 1:
        shown = ", ".join(text.plain(variant, 60) for variant in variants[:3])
        raise ApibenchError(f"{where}: holds several variants ({shown}); give a set of one attack")
    if variants[0] == "clean":
        raise ApibenchError(f"{where}: this set is clean; there is no noise in it")
    if "+" in variants[0]:
        raise ApibenchError(
            f"{where}: this set is purified ({text.plain(variants[0], 80)});\n"
            "the noise is measured before purification: give the adversarial set it was made from"
        )


def _names(sets: Sequence[ImageSet]) -> list[str]:
    """The variant; with its folder where two sets are of one variant, and a number where these are alike too."""
    names: list[str] = []
    variants = [images.records[0].variant for images in sets]
    for images, variant in zip(sets, variants, strict=True):
        name = variant if variants.count(variant) == 1 else f"{variant} ({images.folder.resolve().name})"
        names.append(name if name not in names else f"{name} #{sum(n.startswith(name) for n in names) + 1}")
    return names


def _analyse(clean: ImageSet, images: ImageSet, name: str, seed: int, synthetic: bool) -> SetAnalysis:
    by_identity = {record.pixels_sha256: record for record in clean.records}
    kinds = (controls.ATTACK, controls.SIGN_FLIP, *(controls.SYNTHETIC if synthetic else ()))
    noises = {kind: NoiseMeasures() for kind in kinds}
    photographs, smoothed = Spectrum(), Smoothed()
    failed: list[tuple[str, str]] = []
    met: set[str] = set()
    repeated = 0
    for record in Progress(images.records, f"analyze {name}", unit="image"):
        if record.source in met:  # one photograph under two names: counted twice, it would narrow the intervals
            repeated += 1
            continue
        met.add(record.source)
        try:
            before, after = _pair(clean, by_identity.get(record.source), images, record)
        except ApibenchError as error:
            failed.append((record.id, str(error)))
            continue
        photographs.add(before)
        smoothed.add(before)
        noise = difference(before, after)
        for kind, measures in noises.items():
            measures.add(_noise(kind, noise, before, record.source, seed))
    return SetAnalysis(
        name=name,
        folder=images.folder.resolve().name,
        surrogates=_surrogates(images.records[0]),
        noises=noises,
        photographs=photographs,
        smoothed=smoothed,
        unattacked=tuple(record.id for record in clean.records if record.pixels_sha256 not in met),
        repeated=repeated,
        failed=tuple(failed),
    )


def _pair(clean: ImageSet, partner: ImageRecord | None, images: ImageSet, record: ImageRecord) -> tuple[Pixels, Pixels]:
    """Both images of a pair, of one size. Raises ApibenchError where there is none."""
    where = images.path(record)
    if partner is None:
        raise ApibenchError(f"{where}: its clean image is not in {clean.folder}")
    try:
        before, after = clean.read_pixels(partner), images.read_pixels(record)
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:  # a PNG that the manifest vouches for, but is none
        raise ApibenchError(f"{where} or {clean.path(partner)}: not a PNG that can be read: {error}") from error
    if before.shape != after.shape:
        sizes = [f"{pixels.shape[1]}×{pixels.shape[0]}" for pixels in (after, before)]
        raise ApibenchError(f"{where}: is {sizes[0]}, its clean image {sizes[1]}")
    return before, after


def _noise(kind: str, noise: Noise, clean: npt.NDArray[np.uint8], identity: str, seed: int) -> Noise:
    if kind == controls.ATTACK:
        return noise
    draw = controls.generator(seed, kind, identity)
    if kind == controls.SIGN_FLIP:
        return controls.sign_flip(noise, draw)
    return controls.synthetic(kind, clean, int(np.abs(noise).max()), draw)


def _surrogates(record: ImageRecord) -> tuple[str, ...]:
    """The classifiers that the set was made against, as far as its settings name them."""
    for key in ("surrogates", "classifiers", "classifier"):
        named = record.settings.get(key)
        if isinstance(named, str):
            return (named,)
        if isinstance(named, list):
            return tuple(str(one) for one in named)
    return ()
