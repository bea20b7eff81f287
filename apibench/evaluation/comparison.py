"""Accuracies from cells, and settings of different purifiers compared where their standard accuracy is the same.

*Standard accuracy* is the share of clean images, purified, whose class is right; *robust accuracy* that of adversarial images,
purified. Over several classifiers both are means, and an image is the unit of resampling, since the classifiers see the same
images. numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from apibench import metrics
from apibench.evaluation.cells import CLEAN, NONE, Cell, Key
from apibench.metrics import Interval

TOLERANCE = 0.02  # standard accuracies this close count as the same
FEWEST = 20  # images that a verdict is given on
TOO_FEW = "too few images"
VERDICTS = ("ahead", "undecided", "behind", TOO_FEW)
_ROUNDING = 1e-9

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, order=True)
class Setting:
    """A purifier and its passes; ``family`` is the method that it is a setting of."""

    family: str
    purifier: str
    passes: int

    @property
    def label(self) -> str:
        if self.purifier == NONE:
            return "no purifier"
        # A chain's parts say their own passes.
        return self.purifier if "+" in self.purifier else f"{self.purifier}/{self.passes}"


NOTHING = Setting(NONE, NONE, 0)


@dataclass(frozen=True, order=True)
class Threat:
    """An attack's variant, and whether it was made through the purifier."""

    attack: str
    aware: bool = False

    @property
    def bound(self) -> str:
        """``eps8`` of ``pgd-linf/eps8``: attacks of the same bound may be set side by side. Without one, the attack itself."""
        return self.attack.partition("/")[2] or self.attack

    @property
    def label(self) -> str:
        return f"{self.attack}, purifier-aware" if self.aware else self.attack


STANDARD = Threat(CLEAN)


@dataclass(frozen=True)
class Accuracy:
    """A share in [0, 1] over ``n`` images with its 95 % interval: Wilson's, or of a bootstrap if over several classifiers."""

    value: float
    n: int
    interval: Interval


class Results:
    """Cells by what they are of. What an image got stands at its place in ``sources``, the clean images of all cells."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.sources = sorted({image.source for cell in cells for image in cell.images})
        place = {source: number for number, source in enumerate(self.sources)}
        families: dict[tuple[str, int], str] = {}
        self._correct: dict[Key, Floats] = {}
        for cell in cells:
            correct = np.full(len(place), np.nan)
            correct[[place[image.source] for image in cell.images]] = [image.correct for image in cell.images]
            self._correct[cell.key] = correct
            families[cell.key.purifier, cell.key.passes] = cell.family
        self.classifiers = sorted({key.classifier for key in self._correct})
        self.settings = sorted(
            (Setting(family, purifier, passes) for (purifier, passes), family in families.items()),
            key=lambda setting: (setting.family != NONE, setting),
        )
        self.threats = sorted(
            {Threat(key.attack, key.aware) for key in self._correct} - {STANDARD}, key=lambda t: (t.aware, _natural(t))
        )

    @property
    def families(self) -> list[str]:
        return sorted({setting.family for setting in self.settings} - {NONE})

    def correct(self, classifier: str, threat: Threat, setting: Setting) -> Floats | None:
        """(sources,): 1 where the classifier was right, 0 where it was wrong, NaN where nothing is known. None: no cell."""
        return self._correct.get(Key(classifier, threat.attack, setting.purifier, setting.passes, threat.aware))

    def asked(self, threat: Threat, *settings: Setting) -> list[str]:
        """The classifiers that have a cell for each of ``settings``, clean and under ``threat``."""
        return [
            classifier
            for classifier in self.classifiers
            if all(self.correct(classifier, t, s) is not None for t in (STANDARD, threat) for s in settings)
        ]

    def shares(
        self, threat: Threat, setting: Setting, classifiers: Sequence[str], among: Floats | None = None
    ) -> Floats:
        """(sources,): the share of ``classifiers`` that were right; NaN where one of them did not see the image.

        ``among``: NaN too where that is NaN. A classifier without the cell is left out.
        """
        seen = [found for name in classifiers if (found := self.correct(name, threat, setting)) is not None]
        share = np.mean(seen, axis=0) if seen else np.full(len(self.sources), np.nan)
        return share if among is None else np.where(np.isnan(among), np.nan, share)

    def accuracy(
        self, threat: Threat, setting: Setting, classifiers: Sequence[str], among: Floats | None = None
    ) -> Accuracy | None:
        """None where no image is known. ``among``: as for :meth:`shares`."""
        shares = known(self.shares(threat, setting, classifiers, among))
        if not len(shares):
            return None
        value = float(shares.mean())
        if len(classifiers) == 1:
            return Accuracy(value, len(shares), metrics.wilson_interval(round(shares.sum()), len(shares)))
        return Accuracy(value, len(shares), bootstrap_mean(shares))


def known(shares: Floats) -> Floats:
    """What is not NaN."""
    return shares[~np.isnan(shares)]


def _natural(threat: Threat) -> tuple[str, float]:
    """``eps8`` before ``eps16``."""
    digits = "".join(c for c in threat.bound if c.isdigit() or c == ".").strip(".")
    try:
        return threat.attack.partition("/")[0], float(digits)
    except ValueError:
        return threat.attack.partition("/")[0], 0.0


def bootstrap_mean(
    values: Floats, *, lowest: float = 0.0, resamples: int = metrics.RESAMPLES, seed: int = metrics.SEED
) -> Interval:
    """The 95 % percentile interval of a mean over images, not empty; the same whatever the order of the images.

    The values are from ``lowest`` to 1. Few of them are different ones (shares of a handful of classifiers), so drawing n
    images with replacement is drawing how many of each value there are. Where all are the same, drawing tells nothing, and
    none of n seen leaves up to Wilson's upper limit of 0 of n for others, as far off as can be: of shares that are all 0 or
    all 1, Wilson's own interval.
    """
    different, counts = np.unique(values.round(12), return_counts=True)
    n = int(counts.sum())
    if len(different) == 1:
        value, others = float(different[0]), metrics.wilson_interval(0, n).high
        return Interval(value - others * (value - lowest), value + others * (1 - value))
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples)
    means = np.einsum("rk,k->r", drawn.astype(np.float64), different) / n
    low, high = np.quantile(means, [(1 - metrics.CONFIDENCE) / 2, (1 + metrics.CONFIDENCE) / 2])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Match:
    """Two settings of about the same standard accuracy under one threat; ``difference`` is reference − rival, paired."""

    threat: Threat
    reference: Setting
    rival: Setting
    standard: tuple[float, float]
    robust: tuple[float, float]
    difference: float
    interval: Interval
    n: int

    @property
    def verdict(self) -> str:
        if self.n < FEWEST:
            return TOO_FEW
        if self.interval.low > 0:
            return "ahead"
        return "behind" if self.interval.high < 0 else "undecided"


@dataclass(frozen=True)
class OneClassifier:
    """The paired difference of one classifier over its ``n`` images: Newcombe's interval and the exact McNemar p."""

    classifier: str
    n: int
    difference: float
    interval: Interval
    p: float


@dataclass(frozen=True)
class NoMatch:
    """No setting of ``family`` is within the tolerance; ``nearest`` has ``gap`` more standard accuracy than ``reference``."""

    threat: Threat
    reference: Setting
    family: str
    nearest: Setting
    gap: float


def compare(results: Results, threat: Threat, reference: Setting, rival: Setting) -> Match | None:
    """Two settings over the classifiers and images that both have; None where there are none."""
    both = results.asked(threat, reference, rival)
    ours, theirs = (results.shares(threat, setting, both) for setting in (reference, rival))
    differences = known(ours - theirs)
    if not len(differences):
        return None
    paired = np.isnan(ours - theirs)
    return Match(
        threat=threat,
        reference=reference,
        rival=rival,
        standard=_standards(results, both, reference, rival),
        robust=(float(ours[~paired].mean()), float(theirs[~paired].mean())),
        difference=float(differences.mean()),
        interval=bootstrap_mean(differences, lowest=-1.0),
        n=len(differences),
    )


def _standards(results: Results, classifiers: Sequence[str], one: Setting, other: Setting) -> tuple[float, float]:
    """The standard accuracies of two settings, over the clean images that both have."""
    first, second = (results.shares(STANDARD, setting, classifiers) for setting in (one, other))
    unknown = np.isnan(first - second)
    return float(first[~unknown].mean()), float(second[~unknown].mean())


def each_classifier(results: Results, match: Match) -> list[OneClassifier]:
    """The comparison of a match for each of its classifiers alone, over the images that both settings have there."""
    found = []
    for name in results.asked(match.threat, match.reference, match.rival):
        ours, theirs = (results.correct(name, match.threat, setting) for setting in (match.reference, match.rival))
        assert ours is not None
        assert theirs is not None
        flags = [(b == 1, a == 1) for b, a in zip(theirs, ours, strict=True) if not np.isnan(a - b)]
        counts = metrics.pair(*zip(*flags, strict=True))
        found.append(
            OneClassifier(
                name, counts.n, counts.difference, metrics.newcombe_interval(counts), metrics.mcnemar_p(counts)
            )
        )
    return found


def matching(gaps: Mapping[Setting, float], tolerance: float = TOLERANCE) -> tuple[list[Setting], Setting]:
    """Of ``gaps`` (not empty; a setting's standard accuracy less the reference's) those within ``tolerance``, and the nearest."""
    near = [setting for setting, gap in gaps.items() if abs(gap) <= tolerance + _ROUNDING]
    return near, min(gaps, key=lambda setting: (abs(gaps[setting]), setting))


def matched(
    results: Results, threat: Threat, family: str, tolerance: float = TOLERANCE
) -> tuple[list[Match], list[NoMatch]]:
    """Each setting of ``family`` beside every setting of the other families with the same standard accuracy.

    No purifier at all is a family of one setting. Only settings that have results under ``threat`` are compared.
    """
    found: list[Match] = []
    lacking: list[NoMatch] = []
    for reference in (s for s in results.settings if s.family == family and results.asked(threat, s)):
        for other in [NONE, *(name for name in results.families if name != family)]:
            gaps = _gaps(results, threat, reference, other)
            if not gaps:
                continue
            near, nearest = matching(gaps, tolerance)
            found += [match for rival in near if (match := compare(results, threat, reference, rival)) is not None]
            if not near:
                lacking.append(NoMatch(threat, reference, other, nearest, gaps[nearest]))
    return found, lacking


def _gaps(results: Results, threat: Threat, reference: Setting, family: str) -> dict[Setting, float]:
    """How much more standard accuracy each setting of ``family`` has than ``reference``, over the classifiers both have."""
    gaps = {}
    for rival in (setting for setting in results.settings if setting.family == family):
        both = results.asked(threat, reference, rival)
        if both:
            ours, theirs = _standards(results, both, reference, rival)
            gaps[rival] = theirs - ours
    return gaps


def strongest(matches: Sequence[Match]) -> list[Match]:
    """Of each reference setting and rival family, the rival with the highest robust accuracy: the one that is hardest to beat."""
    best: dict[tuple[Setting, str], Match] = {}
    for match in matches:
        place = (match.reference, match.rival.family)
        known = best.get(place)
        if known is None or (match.robust[1], match.standard[1]) > (known.robust[1], known.standard[1]):
            best[place] = match
    return list(best.values())
