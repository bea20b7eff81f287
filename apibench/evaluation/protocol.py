"""What a local evaluation is: the TOML of ``apibench evaluate``, read and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from apibench.recipe import Generate, Images, Name, Purify, Section, once, parse

Epsilon = Annotated[float, Field(gt=0, le=10_000)]


class Defence(Purify):
    """A purifier by name and its pass counts. ``family``: which line of the plots it is on (default: the name before ``:``)."""

    family: Name | None = None

    @field_validator("iterations")
    @classmethod
    def _each_once(cls, values: list[int]) -> list[int]:
        return sorted(once(values))


class Against(Section):
    """Which of the classifiers something is for: all, those named, or (a number) the first so many."""

    classifiers: list[str] | Annotated[int, Field(ge=1)] | None = None
    limit: int | None = Field(default=None, ge=1)  # only the first so many images
    seed: int = Field(default=0, ge=0)

    def chosen(self, classifiers: Sequence[str]) -> list[str]:
        if self.classifiers is None or isinstance(self.classifiers, int):
            return list(classifiers[: self.classifiers])
        return list(self.classifiers)


class Library(Against):
    """An attack of a library on each classifier, purifier-blind. Without ``epsilon``: one that seeks the smallest noise.

    ``only_where``: an attack of the same recipe; images that it fooled keep its noise, and only the others are attacked.
    """

    name: str
    epsilon: list[Epsilon] = Field(default_factory=list)
    steps: int | None = Field(default=None, ge=1)
    only_where: str | None = None

    @property
    def epsilons(self) -> list[float] | list[None]:
        return self.epsilon or [None]


class Aware(Against):
    """An attack through each classifier and purifier together; ``eot``: draws of a random purifier a step.

    ``steps``: left out, the attack's own.
    """

    purify: list[Defence] = Field(min_length=1)
    attack: str = "pgd-adaptive"
    epsilon: list[Epsilon] = Field(min_length=1)
    steps: int | None = Field(default=None, ge=1)
    eot: int = Field(default=1, ge=1, le=1000)


class Protocol(Section):
    """A whole evaluation. It writes below ``out`` (default ``reports/NAME``).

    ``reference`` is the family that the others are compared with at matched standard accuracy. ``notes`` are printed beneath
    the tables: what was not run, and why.
    """

    name: Name
    out: Path | None = None
    classifiers: list[str] = Field(min_length=1)
    reference: str = "ncis"
    notes: list[str] = Field(default_factory=list)
    images: Images = Images()
    transfer: list[Generate] = Field(default_factory=list)
    attack: list[Library] = Field(default_factory=list)
    purify: list[Defence] = Field(default_factory=list)
    aware: list[Aware] = Field(default_factory=list)
    seed: int = Field(default=0, ge=0)  # of random purifiers

    @field_validator("classifiers")
    @classmethod
    def _each_once(cls, values: list[str]) -> list[str]:
        return once(values)

    @model_validator(mode="after")
    def _names_are_of_this_recipe(self) -> Protocol:
        for where, against in [
            *((f"attack[{i}]", a) for i, a in enumerate(self.attack, 1)),
            *((f"aware[{i}]", a) for i, a in enumerate(self.aware, 1)),
        ]:
            for name in against.chosen(self.classifiers):
                if name not in self.classifiers:
                    raise ValueError(f"{where}.classifiers: {name} is not among the recipe's classifiers")
        for i, attack in enumerate(self.attack):
            if attack.only_where is not None:
                self._check_only_where(i, attack)
        return self

    def _check_only_where(self, index: int, attack: Library) -> None:
        """The attack it builds on stands before it and has every image, classifier and bound that this one has."""
        where = f"attack[{index + 1}].only_where: {attack.only_where}"
        base = next((other for other in self.attack[:index] if other.name == attack.only_where), None)
        if base is None:
            raise ValueError(f"{where} is no attack that stands before it")
        lacking = set(attack.chosen(self.classifiers)) - set(base.chosen(self.classifiers))
        fewer = base.limit is not None and (attack.limit is None or attack.limit > base.limit)
        if lacking or fewer or not set(attack.epsilons) <= set(base.epsilons):
            raise ValueError(f"{where} has not all the images, classifiers and epsilons of {attack.name}")

    @property
    def folder(self) -> Path:
        return self.out if self.out is not None else Path("reports") / self.name

    @property
    def defences(self) -> list[Defence]:
        """Every purifier that is measured: those of aware attacks too, since a blind number stands beside each aware one."""
        found: dict[str, Defence] = {}
        for defence in [*self.purify, *(d for aware in self.aware for d in aware.purify)]:
            known = found.setdefault(defence.purifier, defence)
            passes = sorted({*known.iterations, *defence.iterations})
            found[defence.purifier] = known.model_copy(update={"iterations": passes})
        return list(found.values())


def load(
    path: Path,
    *,
    images: str | None = None,
    labels: Path | None = None,
    out: Path | None = None,
    limit: int | None = None,
    classifiers: Sequence[str] = (),
    surrogates: Sequence[str] = (),
    aware: bool = True,
) -> Protocol:
    """Read and check a recipe; what is given stands in for its own.

    Raises ApibenchError naming the key and the reason (the first three, if there are more).
    """
    own = {"source": images, "labels": None if labels is None else str(labels), "limit": limit}
    return parse(path, Protocol, lambda content: _override(content, own, out, classifiers, surrogates, aware))


def _override(
    content: dict[str, Any],
    images: dict[str, Any],
    out: Path | None,
    classifiers: Sequence[str],
    surrogates: Sequence[str],
    aware: bool,
) -> None:
    """Put the command line's into the TOML, before it is checked: so a name from there is checked like one of the recipe."""
    given = {key: value for key, value in images.items() if value is not None}
    if given and isinstance(content.setdefault("images", {}), dict):
        content["images"].update(given)
    if out is not None:
        content["out"] = str(out)
    if classifiers:
        content["classifiers"] = list(classifiers)
    transfers = content.get("transfer")
    for transfer in transfers if surrogates and isinstance(transfers, list) else []:
        if isinstance(transfer, dict):
            transfer["surrogates"] = list(surrogates)
    if not aware:
        content["aware"] = []
