"""An attack by name: which parts it is put together from, and whether they go together. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from apibench.attacks.catalogue import ACTS, ENSEMBLE, GRADIENT, KINDS, LOSS, TABLE, TRANSFORM, Part
from apibench.errors import ApibenchError
from apibench.parameters import Value, written

DEFAULTS = {GRADIENT: "mi", ENSEMBLE: "logits", LOSS: "ce"}

# A hyphen before a letter joins parts; one before a digit is a minus or an exponent.
_JOINT = re.compile(r"-(?=[A-Za-z])|-$|^-")


@dataclass(frozen=True)
class Chosen:
    """A part with its numbers."""

    part: Part
    values: tuple[Value, ...]

    @property
    def text(self) -> str:
        """As it is written: its numbers up to the last one that is not the default."""
        values, defaults = self.values, self.part.defaults
        while values and written(values[-1:]) == written(defaults[len(values) - 1 : len(values)]):
            values = values[:-1]
        return f"{self.part.name}:{written(values)}" if values else self.part.name

    @property
    def gradients(self) -> int:
        return self.part.gradients(self.values)

    def make(self) -> Any:
        return self.part.make(self.values)


@dataclass(frozen=True)
class Composition:
    """The parts of an attack. ``transforms``: those of pixels, as they were named, then of the view, then of the gradient."""

    gradient: Chosen
    transforms: tuple[Chosen, ...]
    ensemble: Chosen
    loss: Chosen

    @property
    def name(self) -> str:
        """The same for the same attack, however it was written: gradient rule, transforms in their order, then what is not
        the default."""
        chosen = [self.gradient, *self.transforms]
        chosen += [part for part in (self.ensemble, self.loss) if part.text != DEFAULTS[part.part.kind]]
        return "-".join(part.text for part in chosen)

    @property
    def gradients_per_step(self) -> int:
        """Gradients that a step takes of each network of the ensemble."""
        product = self.gradient.gradients * self.ensemble.gradients
        for transform in self.transforms:
            product *= transform.gradients
        return product

    def __iter__(self) -> Any:
        return iter((self.gradient, *self.transforms, self.ensemble, self.loss))

    def check(self, norm: str, targeted: bool) -> None:
        """Raises ValueError where the parts are not defined together, in this norm, or for this aim."""
        for chosen in self:
            part = chosen.part
            if norm not in part.norms:
                raise ValueError(f"{part.name} is not defined in {norm}, only in {' and '.join(part.norms)}")
            if part.targeted and not targeted:
                raise ValueError(
                    f"{part.name} is a loss of targeted attacks; give an aim: random, least-likely or given"
                )
            others = [other.part.name for other in self]
            for name in part.not_with:
                if name in others:
                    raise ValueError(f"{part.name} and {name} do not go together")
            if part.only_with and self.gradient.part.name not in part.only_with:
                raise ValueError(
                    f"{part.name} replaces the update itself and goes with {' or '.join(part.only_with)}, "
                    f"not with {self.gradient.part.name}"
                )


def parse(name: str) -> Composition:
    """An attack from its name. Raises ApibenchError naming what is wrong with it."""
    try:
        return _composed(_chosen(text) for text in _JOINT.split(name))
    except ValueError as error:
        said = str(error)
        raise ApibenchError(said if said.startswith(f"{name}: ") else f"{name}: {said}") from error


def _chosen(text: str) -> Chosen:
    name, colon, argument = text.partition(":")
    part = TABLE.find(name)
    if colon and not argument:
        raise ValueError(f"nothing stands after the colon of {name}")
    try:
        return Chosen(part, part.values(argument if colon else None))
    except ValueError as error:
        raise ValueError(f"{text}: {error}; write {part.form}") from error


def _composed(parts: Iterable[Chosen]) -> Composition:
    found: dict[str, list[Chosen]] = {kind: [] for kind in KINDS}
    for chosen in parts:
        if chosen.part.name in [other.part.name for other in found[chosen.part.kind]]:
            raise ValueError(f"{chosen.part.name} is named twice")
        found[chosen.part.kind].append(chosen)
    for kind, default in DEFAULTS.items():
        names = [chosen.part.name for chosen in found[kind]]
        if len(names) > 1:
            raise ValueError(f"{' and '.join(names)}: an attack has one part of the kind {kind}")
        if not names:
            found[kind] = [_chosen(default)]
    # What acts on pixels comes first, whichever was named first: so the draws are the same too, and the images.
    found[TRANSFORM].sort(key=lambda chosen: ACTS.index(chosen.part.acts))
    return Composition(found[GRADIENT][0], tuple(found[TRANSFORM]), found[ENSEMBLE][0], found[LOSS][0])
