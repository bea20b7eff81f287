"""What a run is: the TOML of ``apibench run``, read and checked before anything is computed or spent."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from apibench import data, defaults
from apibench.attacks import composition
from apibench.attacks.catalogue import GIVEN, LARGEST_RADIUS, LINF, UNTARGETED
from apibench.errors import ApibenchError
from apibench.query.policy import OnUncertain

if TYPE_CHECKING:
    from apibench.attacks.loop import AttackSettings

# Names that become parts of file names and of table rows.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
VENDORS = ("aws", "azure", "clarifai", "google")


M = TypeVar("M", bound=BaseModel)
V = TypeVar("V", list[int], list[str], list[float] | list[str])


def once(values: V) -> V:
    """A list in which nothing stands twice. Raises ValueError otherwise."""
    for value in values:
        if values.count(value) > 1:  # type: ignore[arg-type]
            raise ValueError(f"{value} stands in it twice")
    return values


def _in_levels(epsilon: float, info: ValidationInfo) -> float:
    """A bound in L-infinity cannot be above the largest level; one in L2 can."""
    if info.data.get("norm") == LINF and epsilon > 255:
        raise PydanticKnownError("less_than_equal", {"le": 255})
    return epsilon


Epsilon = Annotated[int | float, Field(gt=0, le=LARGEST_RADIUS), AfterValidator(_in_levels)]


class Section(BaseModel):
    """A table of the TOML: an unknown key is an error, since a misspelt one would otherwise be ignored silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Images(Section):
    """``source``: a folder of photographs, an image set, or ``pypi:foolbox`` (20 ImageNet photographs)."""

    source: str = "pypi:foolbox"
    labels: Path | None = None
    max_side: int = Field(default=512, ge=32, le=8192)
    limit: int | None = Field(default=None, ge=1)


class Generate(Section):
    """The attacks: every epsilon makes an adversarial set.

    ``attack``: a name put together from parts, as ``apibench attacks`` lists them. ``epsilon``: whole levels of 255, or with
    ``norm = "l2"`` radii, for pixels in [0, 1]. ``aim``: away from an image's class, or towards another; ``targets``: with
    ``aim = "given"``, a CSV with the columns ``file`` and ``target``.
    """

    attack: str = defaults.ATTACK
    norm: Literal["linf", "l2"] = "linf"
    epsilon: list[Epsilon] = Field(default=[16], min_length=1)
    steps: int = Field(default=10, ge=1, le=10_000)
    aim: Literal["untargeted", "least-likely", "random", "given"] = "untargeted"
    targets: Path | None = None
    seed: int = Field(default=0, ge=0)
    surrogates: list[str] = Field(default=list(defaults.SURROGATES), min_length=1)

    @field_validator("epsilon", "surrogates")
    @classmethod
    def _each_once(cls, values: list[float] | list[str]) -> list[float] | list[str]:
        return once(values)

    @field_validator("attack")
    @classmethod
    def _put_together_from_parts(cls, name: str) -> str:
        try:
            return composition.parse(name).name
        except ApibenchError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _defined_in_this_norm_and_for_this_aim(self) -> Generate:
        composition.parse(self.attack).check(self.norm, self.aim != UNTARGETED)
        for epsilon in self.epsilon:
            if self.norm == LINF and epsilon != int(epsilon):
                raise ValueError(f"epsilon: {epsilon} is no whole number of levels of 255")
        if self.norm != LINF and "epsilon" not in self.model_fields_set:
            raise ValueError(f"epsilon: say the radius in {self.norm}, for pixels in [0, 1]: 3 to 10 for a photograph")
        if (self.aim == GIVEN) != (self.targets is not None):
            raise ValueError("targets: a file of targets and aim = 'given' go together")
        return self

    def settings(self, epsilon: float) -> AttackSettings:
        """The attack of one of the epsilons."""
        from apibench.attacks.loop import AttackSettings

        return AttackSettings(self.attack, epsilon, self.steps, self.seed, self.norm, self.aim)


class Purify(Section):
    """A purifier by name, and how many passes: each number makes a set of every clean and adversarial one."""

    purifier: str
    iterations: list[Annotated[int, Field(ge=1, le=1000)]] = Field(default=[1], min_length=1)


class Query(Section):
    """Which providers are asked. ``emulated`` sends to the local emulator instead, with fake keys, and costs nothing.

    ``max_calls`` and ``max_cost`` (US dollars) are of all providers together, over all starts. ``on_uncertain``: what becomes of
    an image whose answer may have been lost. ``batch``: images a request, where the vendor takes several. ``concurrency``: by
    each provider's rate, unless given. ``record``: a cassette that what is said is written to; ``replay``: one that answers.
    """

    providers: list[str] = Field(default=["aws"], min_length=1)
    emulated: bool = False
    campaign: Name = "default"
    max_calls: int | None = Field(default=None, ge=1)
    max_cost: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    on_uncertain: OnUncertain = OnUncertain.ASK_AGAIN
    batch: int = Field(default=1, ge=1, le=128)
    concurrency: int | None = Field(default=None, ge=1, le=64)
    settings: dict[str, dict[str, str | int | float | bool]] = Field(default_factory=dict)
    prices: Path | None = None
    record: Path | None = None
    replay: Path | None = None

    @field_validator("providers")
    @classmethod
    def _each_once(cls, values: list[str]) -> list[str]:
        return once(values)


class Emulator(Section):
    """The network that answers in the vendors' place, or one for each of them; no surrogate of the attack may be the same."""

    target: str | dict[str, str] = defaults.TARGET

    def target_of(self, provider: str) -> str:
        return self.target if isinstance(self.target, str) else self.target.get(provider, defaults.TARGET)


class Recipe(Section):
    """A whole run. ``name`` is the run's; it writes below ``out`` (default ``reports/NAME``)."""

    name: Name
    out: Path | None = None
    images: Images = Images()
    generate: Generate = Generate()
    purify: list[Purify] = Field(default_factory=list)
    query: Query = Query()
    emulator: Emulator = Emulator()

    @model_validator(mode="after")
    def _settings_and_targets_are_of_asked_providers(self) -> Recipe:
        targets = {} if isinstance(self.emulator.target, str) else self.emulator.target
        for table, providers in (("query.settings", self.query.settings), ("emulator.target", targets)):
            for provider in providers:
                if provider not in self.query.providers:
                    raise ValueError(f"{table}.{provider}: {provider} is not in query.providers")
        return self

    @property
    def folder(self) -> Path:
        return self.out if self.out is not None else Path("reports") / self.name


def find(name: str) -> Path:
    """A recipe's file: a path, or the name of one that comes with apibench (``demo.toml``)."""
    path = Path(name)
    if path.is_file():
        return path
    if re.fullmatch(r"[a-z0-9-]+(\.toml)?", name):
        shipped = data.root() / "recipes" / f"{name.removesuffix('.toml')}.toml"
        if shipped.is_file():
            return shipped
    known = ", ".join(sorted(entry.name for entry in (data.root() / "recipes").glob("*.toml")))
    raise ApibenchError(f"{name}: no such recipe file; apibench comes with {known}")


def load(path: Path, *, images: str | None = None, out: Path | None = None) -> Recipe:
    """Read and check a recipe; ``images`` and ``out`` stand in for its own.

    Raises ApibenchError naming the key and the reason (the first three, if there are more).
    """
    recipe = parse(path, Recipe)
    if images is not None:
        recipe = recipe.model_copy(update={"images": recipe.images.model_copy(update={"source": images})})
    return recipe if out is None else recipe.model_copy(update={"out": out})


def parse(path: Path, model: type[M], adjust: Callable[[dict[str, Any]], None] | None = None) -> M:
    """Read a TOML file as a model; ``adjust`` changes what was read before it is checked.

    Raises ApibenchError naming the file, the key and the reason (the first three, if there are more).
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        if adjust is not None:
            adjust(content)
        return model.model_validate(content)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ApibenchError(f"{path}: not TOML: {error}") from error
    except OSError as error:
        raise ApibenchError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problems = [f"{path}: {_where(e['loc'])}{e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        raise ApibenchError("\n".join(problems[:3])) from error


def _where(location: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    return f"{text}: " if text else ""
