"""Accuracy and attack success on adversarial sets, per classifier and in the mean, and attacks of one bound compared.

*Attack success* is the share of wrong answers on the images that the classifier has right when clean. An image is the unit
of resampling, since classifiers and attacks see the same ones. numpy only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from apibench import metrics
from apibench.errors import ApibenchError
from apibench.evaluation.cells import CLEAN, Cell
from apibench.evaluation.comparison import NOTHING, STANDARD, Accuracy, Floats, Results, Threat
from apibench.metrics import Interval

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
        found = _VARIANT.fullmatch(name)
        if found:
            return cls(name, found["attack"], found["bound"], found["purified"] or "")
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
    def group(self) -> tuple[str, str]:
        """Variants of one group may be compared: the same bound, behind the same purifier."""
        return self.bound, self.purified

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

    ``gradients``: network-gradients an image, by variant. ``held_out``: the classifiers that no set was made with, or all of
    them where there are none such; means are over these.
    """

    def __init__(
        self, cells: Sequence[Cell], gradients: Mapping[str, float | None] | None = None, reference: str | None = None
    ) -> None:
        self.results = Results(cells)
        self.variants = sorted((Variant.parse(threat.attack) for threat in self.results.threats), key=lambda v: v.order)
        self.gradients = gradients or {}
        self.unreadable = {cell.key.attack: len(cell.failed) for cell in cells if cell.failed}
        self._made_with = {cell.key.attack: seen_by_attack(cell) for cell in cells if cell.key.attack != CLEAN}
        check_reference(self.variants, reference)
        self.held_out = [
            name for name in self.classifiers if not any(self.white_box(v, name) for v in self.variants)
        ] or self.classifiers
        self._successes: dict[tuple[Variant, tuple[str, ...]], Success | None] = {}
        self._versus: dict[tuple[Variant, tuple[str, ...]], Versus | None] = {}
        self._reference = self._references(reference)

    @property
    def classifiers(self) -> list[str]:
        return self.results.classifiers

    def white_box(self, variant: Variant, *classifiers: str) -> bool:
        """Whether the attack saw the gradients of one of them."""
        return any(_same(name, seen) for name in classifiers for seen in self._made_with[variant.name])

    def reference(self, variant: Variant) -> Variant | None:
        """What a variant is compared with; None without a bound, or where the wanted attack has no set of it."""
        return self._reference.get(variant.group)

    def ranked(self, variants: Iterable[Variant]) -> list[Variant]:
        """The strongest first, those of one purifier together."""
        return sorted(variants, key=lambda v: (bool(v.purified), v.purified, *self._strength(v)))

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

    def versus(self, variant: Variant, classifiers: Sequence[str]) -> Versus | None:
        """None for the reference itself, and where there is no reference or no image to compare on."""
        key = (variant, tuple(classifiers))
        if key not in self._versus:
            self._versus[key] = self._compared(*key)
        return self._versus[key]

    def _success(self, variant: Variant, classifiers: Sequence[str]) -> Success | None:
        right, fooled = self._fooled(variant, classifiers)
        if not right.any(axis=0).all():
            return None
        k, n = int(fooled.sum()), int(right.sum())
        if len(classifiers) == 1:
            return Success(k / n, k, n, metrics.wilson_interval(k, n))
        return Success(_mean_rate(fooled, right), k, n, _bootstrap(fooled, right))

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

    def _references(self, wanted: str | None) -> dict[tuple[str, str], Variant]:
        found: dict[tuple[str, str], Variant] = {}
        for group in {variant.group for variant in self.variants if variant.bound}:
            members = [variant for variant in self.variants if variant.group == group]
            named = [variant for variant in members if wanted in (None, variant.attack)]
            if named:
                found[group] = min(named, key=self._strength)
        return found


def check_reference(variants: Iterable[Variant], reference: str | None) -> None:
    """Raises ApibenchError where no set is of that attack."""
    attacks = sorted({variant.attack for variant in variants})
    if reference is not None and reference not in attacks:
        raise ApibenchError(
            f"--reference {reference}: none of the sets is of that attack; there are {', '.join(attacks)}"
        )


def seen_by_attack(cell: Cell) -> tuple[str, ...]:
    """The networks that a cell's images were made with, by their canonical names in the manifest."""
    settings = cell.settings.get("set") or {}
    one, several = settings.get("classifier"), settings.get("surrogates")
    return (*(several if isinstance(several, list | tuple) else ()), *([one] if isinstance(one, str) else []))


def _same(one: str, other: str) -> bool:
    """Whether two canonical names are of one network: a file is known by its digest, whatever it is called."""
    digests = [name.rpartition("#")[2] if name.startswith("file:") and "#" in name else name for name in (one, other)]
    return digests[0] == digests[1]


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
    drawn = np.random.default_rng(metrics.SEED).multinomial(n, counts / n, size=metrics.RESAMPLES).astype(np.float64)
    top, bottom = drawn @ patterns[:, :columns], drawn @ patterns[:, columns:]
    # A classifier of which a resample holds no image has no rate in it.
    rates = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
    means = np.nanmean(rates, axis=1)
    if np.ptp(means) < 1e-12:
        value, others = float(means[0]), metrics.wilson_interval(0, n).high
        return Interval(value - others * (value - lowest), value + others * (1 - value))
    low, high = np.quantile(means, [(1 - metrics.CONFIDENCE) / 2, (1 + metrics.CONFIDENCE) / 2])
    return Interval(float(low), float(high))
