"""Accuracy and attack success on adversarial sets, per classifier and in the mean, and attacks of one bound compared.

*Attack success* is the share of wrong answers on the images that the classifier has right when clean. An image is the unit
of resampling, since classifiers and attacks see the same ones. numpy only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from apibench import metrics, text
from apibench.attacks import composition
from apibench.attacks.catalogue import AIMS, UNTARGETED
from apibench.errors import ApibenchError
from apibench.evaluation.cells import CLEAN, Cell
from apibench.evaluation.comparison import NOTHING, STANDARD, Accuracy, Floats, Results, Threat
from apibench.metrics import Interval

_AT_ONCE = 2**17  # images drawn at once by a bootstrap
# The bound is the first part of this form: a purifier's passes follow a slash too (mi-di/eps8+jpeg:50/1+ncis/4).
_VARIANT = re.compile(r"(?P<attack>[^+]+?)/(?P<bound>eps\d+|l2-\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?:\+(?P<purified>.+))?")


@dataclass(frozen=True)
class Variant:
    """``mi-logit/random/l2-3.0+ncis/2`` taken apart. ``bound``: ``eps8`` or ``l2-3.0``, empty where the attack has none."""

    name: str
    attack: str
    bound: str = ""
    purified: str = ""

    @classmethod
    def parse(cls, name: str) -> Variant:
        """Raises ApibenchError where the bound is not above 0."""
        found = _VARIANT.fullmatch(name)
        if found:
            variant = cls(name, found["attack"], found["bound"], found["purified"] or "")
            if not 0 < (variant.epsilon or 0.0) < math.inf:
                raise ApibenchError(f"{text.plain(name, 100)}: its bound is not above 0, or without end")
            return variant
        attack, _, purified = name.partition("+")
        return cls(name, attack, "", purified)

    @property
    def label(self) -> str:
        """A line of the plot: the attack, and what purified its images."""
        return f"{self.attack}+{self.purified}" if self.purified else self.attack

    @property
    def norm(self) -> str:
        return {"e": "linf", "l": "l2", "": ""}[self.bound[:1]]

    @property
    def epsilon(self) -> float | None:
        """In levels of 255 (``linf``), or the radius for pixels in [0, 1] (``l2``)."""
        return float(self.bound.removeprefix("eps").removeprefix("l2-")) if self.bound else None

    @property
    def aim(self) -> str:
        """``random``, ``least-likely`` or ``given`` of a targeted attack; empty otherwise."""
        last = self.attack.rpartition("/")[2]
        return last if "/" in self.attack and last in AIMS and last != UNTARGETED else ""

    @property
    def group(self) -> tuple[str, str, str]:
        """Variants of one group may be compared: the same bound, behind the same purifier, with the same aim."""
        return self.bound, self.purified, self.aim

    def is_of(self, attack: str) -> bool:
        """Whether this is ``attack``, however that is written; its aim may be left out."""
        return canonical(attack) in (canonical(self.attack), canonical(self.attack.removesuffix(f"/{self.aim}")))

    @property
    def order(self) -> tuple[int, float, bool, str, str]:
        return ("linf", "l2", "").index(self.norm), self.epsilon or 0.0, bool(self.purified), self.purified, self.attack


@dataclass(frozen=True)
class Success:
    """``fooled`` of the ``n`` images that were right when clean (of several classifiers: summed over them); ``value`` in [0, 1].

    Of several classifiers, ``value`` is the mean of their rates and ``interval`` that of a bootstrap over images, else Wilson's.
    """

    value: float
    fooled: int
    n: int
    interval: Interval


@dataclass(frozen=True)
class Versus:
    """An attack's success less that of ``reference``, on the ``n`` images right when clean that both have.

    One classifier: Newcombe's interval and the exact McNemar ``p``. Several: the mean of their differences, with the interval
    of a bootstrap over images, and no ``p``; ``n`` is summed over them.
    """

    reference: Variant
    difference: float
    n: int
    interval: Interval
    p: float | None = None


class Study:
    """Everything known of some adversarial sets. ``reference``: an attack's name; None: the strongest of each group.

    ``gradients``: network-gradients an image, by variant. ``targets``: by variant, the class that each photograph's image was
    moved towards. ``held_out``: the classifiers that no set was made with, or all of
    them where there are none such; means are over these.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        gradients: Mapping[str, float | None] | None = None,
        reference: str | None = None,
        targets: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        self.results = Results(cells)
        self.variants = sorted((Variant.parse(threat.attack) for threat in self.results.threats), key=lambda v: v.order)
        self.gradients = gradients or {}
        self.unreadable = {cell.key.attack: len(cell.failed) for cell in cells if cell.failed}
        self._hit = self._hits(cells, targets or {})
        self._made_with = {cell.key.attack: seen_by_attack(cell) for cell in cells if cell.key.attack != CLEAN}
        check_reference(self.variants, reference)
        self.held_out = [
            name for name in self.classifiers if not any(self.white_box(v, name) for v in self.variants)
        ] or self.classifiers
        self._successes: dict[tuple[Variant, tuple[str, ...]], Success | None] = {}
        self._target_hits: dict[tuple[Variant, tuple[str, ...]], Success | None] = {}
        self._versus: dict[tuple[Variant, tuple[str, ...]], Versus | None] = {}
        self._reference = self._references(reference)

    @property
    def classifiers(self) -> list[str]:
        return self.results.classifiers

    def white_box(self, variant: Variant, *classifiers: str) -> bool:
        """Whether the attack saw the gradients of one of them, or of what by its name may be one of them."""
        seen = self._made_with[variant.name]
        return self.surrogate(variant, *classifiers) or any(_alike(c, name) for c in classifiers for name in seen)

    def surrogate(self, variant: Variant, *classifiers: str) -> bool:
        """Whether the attack saw, beyond doubt, the gradients of one of them."""
        return any(_same(name, seen) for name in classifiers for seen in self._made_with[variant.name])

    def reference(self, variant: Variant) -> Variant | None:
        """What a variant is compared with; None without a bound, or where the wanted attack has no set of it."""
        return self._reference.get(variant.group)

    def ranked(self, variants: Iterable[Variant]) -> list[Variant]:
        """The strongest first, those of one purifier together, and of these those of one aim."""
        return sorted(variants, key=lambda v: (bool(v.purified), v.purified, v.aim, *self._strength(v)))

    def clean(self, classifiers: Sequence[str], variant: Variant | None = None) -> Accuracy | None:
        """Accuracy on the clean images, all of them or those that a variant was made from."""
        among = None if variant is None else self.results.shares(Threat(variant.name), NOTHING, classifiers)
        return self.results.accuracy(STANDARD, NOTHING, classifiers, among)

    def accuracy(self, variant: Variant, classifiers: Sequence[str]) -> Accuracy | None:
        return self.results.accuracy(Threat(variant.name), NOTHING, classifiers)

    def success(self, variant: Variant, classifiers: Sequence[str]) -> Success | None:
        """None where one of the classifiers has no image right when clean."""
        key = (variant, tuple(classifiers))
        if key not in self._successes:  # several tables ask, and a bootstrap takes its time
            self._successes[key] = self._success(*key)
        return self._successes[key]

    def target_hit(self, variant: Variant, classifiers: Sequence[str]) -> Success | None:
        """Of the images right when clean, those whose target class is answered; None where there is none with a target."""
        key = (variant, tuple(classifiers))
        if key not in self._target_hits:
            right, _ = self._fooled(variant, classifiers)
            known = [self._hit.get((name, variant.name)) for name in classifiers]
            found = [hit for hit in known if hit is not None]
            hit = np.column_stack(found) if len(found) == len(known) else np.full_like(right, np.nan)
            aimed = right * ~np.isnan(hit)
            self._target_hits[key] = self._share(aimed * np.nan_to_num(hit), aimed)
        return self._target_hits[key]

    def versus(self, variant: Variant, classifiers: Sequence[str]) -> Versus | None:
        """None for the reference itself, and where there is no reference or no image to compare on."""
        key = (variant, tuple(classifiers))
        if key not in self._versus:
            self._versus[key] = self._compared(*key)
        return self._versus[key]

    def _success(self, variant: Variant, classifiers: Sequence[str]) -> Success | None:
        right, fooled = self._fooled(variant, classifiers)
        return self._share(fooled, right)

    @staticmethod
    def _share(counted: Floats, among: Floats) -> Success | None:
        """Both (images, classifiers) of 0 and 1."""
        if not among.any(axis=0).all():
            return None
        k, n = int(counted.sum()), int(among.sum())
        if among.shape[1] == 1:
            return Success(k / n, k, n, metrics.wilson_interval(k, n))
        return Success(_mean_rate(counted, among), k, n, _bootstrap(counted, among))

    def _hits(self, cells: Sequence[Cell], targets: Mapping[str, Mapping[str, int]]) -> dict[tuple[str, str], Floats]:
        """By classifier and variant, (sources,): 1 where the target is answered, NaN without one. The label is no target."""
        found = {}
        for cell in cells:
            of_source = targets.get(cell.key.attack)
            if of_source:
                said = {
                    i.source: i.predicted == t
                    for i in cell.images
                    if (t := of_source.get(i.source, i.label)) != i.label
                }
                hit = np.array([float(said.get(source, np.nan)) for source in self.results.sources])
                found[cell.key.classifier, cell.key.attack] = hit
        return found

    def _compared(self, variant: Variant, classifiers: Sequence[str]) -> Versus | None:
        reference = self.reference(variant)
        if reference is None or reference == variant:
            return None
        right, ours = self._fooled(variant, classifiers)
        also, theirs = self._fooled(reference, classifiers)
        both = right * also
        if not both.any(axis=0).all():
            return None
        if len(classifiers) == 1:
            before, after = ((fooled[both == 1] == 1).tolist() for fooled in (theirs, ours))
            counts = metrics.pair(before, after)
            interval = metrics.newcombe_interval(counts)
            return Versus(reference, counts.difference, counts.n, interval, metrics.mcnemar_p(counts))
        difference = both * (ours - theirs)
        interval = _bootstrap(difference, both, lowest=-1.0)
        return Versus(reference, _mean_rate(difference, both), int(both.sum()), interval)

    def _fooled(self, variant: Variant, classifiers: Sequence[str]) -> tuple[Floats, Floats]:
        """(sources, classifiers) twice: 1 where one is right when clean and saw the variant, and where it then is wrong."""
        found = []
        for threat in (STANDARD, Threat(variant.name)):
            answers = [self.results.correct(name, threat, NOTHING) for name in classifiers]
            found.append(np.column_stack([answer for answer in answers if answer is not None]))
        clean, attacked = found
        right = (clean == 1) & ~np.isnan(attacked)
        return right.astype(np.float64), (right & (attacked == 0)).astype(np.float64)

    def _strength(self, variant: Variant) -> tuple[float, float, str]:
        """By success, then by fewer gradients."""
        success, gradients = self.success(variant, self.held_out), self.gradients.get(variant.name)
        return -success.value if success else 0.0, float("inf") if gradients is None else gradients, variant.name

    def _references(self, wanted: str | None) -> dict[tuple[str, str, str], Variant]:
        found: dict[tuple[str, str, str], Variant] = {}
        for group in {variant.group for variant in self.variants if variant.bound}:
            members = [variant for variant in self.variants if variant.group == group]
            named = [variant for variant in members if wanted is None or variant.is_of(wanted)]
            if named:
                found[group] = min(named, key=self._strength)
        return found


def check_reference(variants: Sequence[Variant], reference: str | None) -> None:
    """Raises ApibenchError where no set is of that attack."""
    if reference is not None and not any(variant.is_of(reference) for variant in variants):
        attacks = text.plain(", ".join(sorted({variant.attack for variant in variants})))
        raise ApibenchError(f"--reference {reference}: none of the sets is of that attack; there are {attacks}")


def canonical(attack: str) -> str:
    """An attack's name as its parts write it, whatever follows it left alone; as it is where it is not made of parts."""
    name = re.split(r"[(/]", attack, maxsplit=1)[0]
    try:
        return composition.parse(name).name + attack[len(name) :]
    except ApibenchError:
        return attack


def seen_by_attack(cell: Cell) -> tuple[str, ...]:
    """The networks that a cell's images were made with, by their canonical names in the manifest."""
    settings = cell.settings.get("set") or {}
    one, several = settings.get("classifier"), settings.get("surrogates")
    return (*(several if isinstance(several, list | tuple) else ()), *([one] if isinstance(one, str) else []))


def _same(one: str, other: str) -> bool:
    """Whether two canonical names are of one network: a file is known by its digest, whatever it is called."""
    digests = [name.rpartition("#")[2] if name.startswith("file:") and "#" in name else name for name in (one, other)]
    return digests[0] == digests[1]


def _alike(one: str, other: str) -> bool:
    """Whether two names may be of one network: an architecture of two packages, or with and without its weights' tag.

    Files do not count: their weights are their own, and known by their digest.
    """
    kinds, names = zip(*((kind, rest) for kind, _, rest in (name.partition(":") for name in (one, other))), strict=True)
    (first, _, tag), (second, _, other_tag) = (name.partition(".") for name in names)
    return {*kinds} <= {"pypi", "timm"} and first == second and (tag == other_tag or not tag or not other_tag)


def _mean_rate(values: Floats, weights: Floats) -> float:
    """The mean over columns of sum(values) / sum(weights); both (images, classifiers), no column's weights all zero."""
    return float((values.sum(axis=0) / weights.sum(axis=0)).mean())


def _bootstrap(values: Floats, weights: Floats, *, lowest: float = 0.0) -> Interval:
    """The 95 % percentile interval of the mean rate over images, the same whatever their order.

    An image is one of a few patterns of answers, so drawing images with replacement is drawing how many of each there are.
    Where nothing varies, the rule of :func:`~apibench.evaluation.comparison.bootstrap_mean`.
    """
    kept = weights.any(axis=1)
    patterns, counts = np.unique(np.hstack([values, weights])[kept], axis=0, return_counts=True)
    n, columns = int(counts.sum()), values.shape[1]
    draw, means = np.random.default_rng(metrics.SEED), np.empty(0)
    while len(means) < metrics.RESAMPLES:
        # So many at a time that memory does not grow with the number of images.
        drawn = _resample(counts, min(metrics.RESAMPLES - len(means), max(1, _AT_ONCE // n)), draw)
        top, bottom = drawn @ patterns[:, :columns], drawn @ patterns[:, columns:]
        # A classifier of which a resample holds no image has no rate in it.
        rates = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
        means = np.append(means, np.nanmean(rates, axis=1))
    if np.ptp(means) < 1e-12:
        value, others = float(means[0]), metrics.wilson_interval(0, n).high
        return Interval(value - others * (value - lowest), value + others * (1 - value))
    low, high = np.quantile(means, [(1 - metrics.CONFIDENCE) / 2, (1 + metrics.CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def _resample(counts: npt.NDArray[np.int64], size: int, draw: np.random.Generator) -> Floats:
    """(size, patterns): how often each pattern is among as many images as there are, drawn with replacement."""
    n, kinds = int(counts.sum()), len(counts)
    if kinds * 10 < n:
        return draw.multinomial(n, counts / n, size=size).astype(np.float64)
    # With nearly as many patterns as images, an image at a time is the faster way, by far.
    drawn = np.repeat(np.arange(kinds), counts)[draw.integers(n, size=(size, n), dtype=np.int32)]
    drawn += kinds * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * kinds).reshape(size, kinds).astype(np.float64)
