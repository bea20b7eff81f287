"""``apibench run``: all stages of a recipe, one after the other. Each picks up what is already there."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from apibench import photographs, sources
from apibench.errors import ApibenchError, ExitCode
from apibench.imageset import ImageSet, write_atomically
from apibench.query import registry, stage
from apibench.query.forecast import Plan
from apibench.query.policy import OnUncertain
from apibench.query.result import QueryReport
from apibench.recipe import VENDORS, Recipe

if TYPE_CHECKING:
    from apibench.emulator import Emulator

Say = Callable[[str], None]
STORE = "store.sqlite"
INSIST = f'on_uncertain = "{OnUncertain.INSIST}" in the recipe'


@dataclass
class RunResult:
    """What a run made, and what it could not do (a line each)."""

    store: Path
    report: Path | None = None
    page: Path | None = None
    summary: str = ""
    problems: list[str] = field(default_factory=list)
    codes: list[ExitCode] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """A cap first; nothing done only if no provider has done anything; else whether there are problems."""
        if ExitCode.CAP_REACHED in self.codes:
            return ExitCode.CAP_REACHED
        if self.codes and all(code is ExitCode.NOTHING_DONE for code in self.codes):
            return ExitCode.NOTHING_DONE
        return ExitCode.SOME_FAILED if self.problems else ExitCode.DONE


@dataclass(frozen=True)
class Variant:
    """One image set of the run: the folder it goes to, and what is made of what."""

    folder: str
    base: str | None = None
    epsilon: float | None = None
    purifier: str | None = None
    iterations: int = 0


def variants(recipe: Recipe) -> list[Variant]:
    """Every set of a run, each after the one it is made from: clean, adversarial, and both purified."""
    from apibench import purifiers

    section = recipe.generate
    attacked = [Variant(_plain(section.settings(e).variant), "clean", epsilon=e) for e in section.epsilon]
    found = [Variant("clean"), *attacked]
    for purify in recipe.purify:
        for iterations in purify.iterations:
            # The purifier's own name: it tells weights of the same file name apart by their content, and parts of a chain.
            plain = _plain(purifiers.create(purify.purifier, iterations).variant)
            for base in ("clean", *(variant.folder for variant in attacked)):
                folder = f"{base}+{plain}"
                found.append(Variant(folder, base, purifier=purify.purifier, iterations=iterations))
    if len({variant.folder for variant in found}) < len(found):
        raise ApibenchError("recipe: purify: the same purifier with the same iterations stands in it twice")
    return found


def _plain(variant: str) -> str:
    """A variant as a folder's name."""
    return re.sub(r"[^A-Za-z0-9.+]+", "-", variant)


def providers(recipe: Recipe) -> tuple[list[str], list[str]]:
    """The providers that can be asked, and a line for each vendor of the benchmark that has no adapter installed.

    Raises ApibenchError for a name that is neither.
    """
    known = registry.names()
    missing = [name for name in recipe.query.providers if name not in known]
    for name in missing:
        if name not in VENDORS:
            registry.adapter(name)  # raises, with what there is
    asked = [name for name in recipe.query.providers if name in known]
    if not asked:
        raise ApibenchError(f"recipe: query.providers: none of {', '.join(missing)} has an adapter installed")
    return asked, [f"{name}: left out, there is no adapter for it in this version" for name in missing]


def query_settings(recipe: Recipe, provider: str) -> stage.QuerySettings:
    query = recipe.query
    return stage.QuerySettings(
        provider=provider,
        campaign=query.campaign,
        emulated=query.emulated,
        target=recipe.emulator.target_of(provider),
        max_calls=query.max_calls,
        max_cost=query.max_cost,
        on_uncertain=query.on_uncertain,
        batch=query.batch,
        concurrency=query.concurrency,
        settings=query.settings.get(provider, {}),
        prices=query.prices,
        record=query.record,
        replay=query.replay,
    )


def check(recipe: Recipe) -> None:
    """Find what would fail later before anything is computed: names, files, folders. Raises ApibenchError."""
    asked = providers(recipe)[0]  # first: a wrong name is told before torch is loaded
    from apibench import classifiers

    classifiers.check_all(recipe.generate.surrogates)
    variants(recipe)
    if recipe.generate.targets is not None:
        photographs.read_labels(recipe.generate.targets, "target")
    surrogates = [classifiers.canonical(name) for name in recipe.generate.surrogates]
    for provider in asked:
        query = query_settings(recipe, provider)
        stage.check_files(recipe.folder / STORE, query)
        stage.estimate(query, 0)
        if not query.emulated:
            continue
        target = classifiers.canonical(query.target)
        if target in surrogates:
            raise ApibenchError(
                f"recipe: emulator.target: {target} is a surrogate of the attack too; transfer to it would say nothing"
            )
    if not ImageSet.is_set(Path(recipe.images.source)):
        photographs.find(recipe.images.source, recipe.images.labels)


def plans(recipe: Recipe) -> list[Plan]:
    """What the run would send, a plan a provider, in the order in which they are asked: they share the campaign's caps.

    Exact where the image sets exist; of a set that does not, from the number of photographs, as if nothing of it were stored.
    """
    asked, _ = providers(recipe)
    sets = [_set(recipe, variant) for variant in variants(recipe)]
    there = [images for images in sets if images is not None]
    unmade = len(sets) - len(there)
    missing = unmade * _count(recipe) if unmade else 0
    found: list[Plan] = []
    for name in asked:
        query = query_settings(recipe, name)
        found.append(stage.plan(there, recipe.folder / STORE, query, missing=missing, ahead=tuple(found)))
    return found


def _set(recipe: Recipe, variant: Variant) -> ImageSet | None:
    """One that is there already; None where it has yet to be made."""
    source = Path(recipe.images.source)
    own = variant.base is None and ImageSet.is_set(source)  # a set is asked about where it is
    try:
        images = ImageSet.load(source if own else recipe.folder / "sets" / variant.folder)
    except ApibenchError:
        return None
    return ImageSet(images.folder, images.records[: recipe.images.limit]) if variant.base is None else images


def _count(recipe: Recipe) -> int:
    source = Path(recipe.images.source)
    if ImageSet.is_set(source):
        count = len(ImageSet.load(source).records)
    else:
        count = len(photographs.find(recipe.images.source, recipe.images.labels)[0])
    return min(count, recipe.images.limit or count)


def run(recipe: Recipe, say: Say, text: bytes = b"") -> RunResult:
    """Run a checked recipe below ``recipe.folder``: ``sets/``, ``store.sqlite`` and ``report/``.

    ``text``: the recipe as it was read; it is kept beside the store, and named by the report's provenance.
    """
    result = RunResult(store=recipe.folder / STORE)
    if not result.store.exists():  # with stored answers, nobody may have to be asked
        check_access(recipe, say)
    made = make_sets(recipe, say, result)
    ask(recipe, made, say, result)
    from apibench.report import provenance, write_report

    if text:
        write_atomically(recipe.folder / provenance.RUN_RECIPE, text)
    say("report: is being written")
    written = write_report(result.store, recipe.folder / "report", recipe.query.campaign)
    result.report, result.page, result.summary = written.report, written.page, written.summary
    return result


def check_access(recipe: Recipe, say: Say) -> None:
    """Say which providers cannot be asked before hours of computing. Raises ApibenchError where none can."""
    errors = []
    asked, _ = providers(recipe)
    for name in asked:
        try:
            stage.check_access(query_settings(recipe, name))
        except ApibenchError as error:
            errors.append(str(error))
    if len(errors) == len(asked):
        raise ApibenchError("\n".join(errors))
    for reason in errors:
        say(f"cannot be asked as it is: {reason}")


def make_sets(recipe: Recipe, say: Say, result: RunResult) -> list[ImageSet]:
    """Import, attack, purify. Photographs that cannot be decoded are noted and left out."""
    from apibench import purifiers
    from apibench.attacks import stage as attacks
    from apibench.purifiers import stage as purification

    base = recipe.folder / "sets"
    source = sources.open_source(
        recipe.images.source,
        base / "clean",
        labels=recipe.images.labels,
        max_side=recipe.images.max_side,
        limit=recipe.images.limit,
    )
    result.problems += [reason for _, reason in source.failed]
    for note in source.notes:
        say(f"images: {note}")
    clean = ImageSet(source.images.folder, source.images.records[: recipe.images.limit])
    say(f"images: {len(clean.records)} photographs")
    made: dict[str, ImageSet] = {}
    for variant in variants(recipe):
        out = base / variant.folder
        if variant.base is None:
            made[variant.folder] = clean
        elif variant.epsilon is not None:
            section = recipe.generate
            settings = section.settings(variant.epsilon)
            generated = attacks.generate(clean, out, settings, section.surrogates, targets=section.targets)
            assert generated.images is not None
            made[variant.folder] = generated.images
            result.problems += [reason for _, reason in generated.failed]
            say(f"attack: {settings.variant}: {generated.made} made, {generated.kept} were there")
        else:
            assert variant.purifier is not None
            purifier = purifiers.create(variant.purifier, variant.iterations)
            purified = purification.purify(made[variant.base], out, purifier, seed=recipe.generate.seed)
            made[variant.folder] = purified.images
            result.problems += [reason for _, reason in purified.failed]
            say(f"purify: {variant.folder}: {purified.made} made, {purified.kept} were there")
    return list(made.values())


def ask(recipe: Recipe, images: list[ImageSet], say: Say, result: RunResult) -> None:
    """Query every provider; what one of them cannot do does not stop the others."""
    asked, left_out = providers(recipe)
    result.problems += left_out
    errors: list[ApibenchError] = []
    with _emulator(recipe, asked) as emulator:
        for name in asked:
            try:
                report = stage.query_images(images, result.store, query_settings(recipe, name), emulator, say)
            except ApibenchError as error:
                errors.append(error)
                result.problems.append(str(error))
                result.codes.append(error.exit_code)
                continue
            say(f"query: {name}: {summary(report)}")
            if report.model_change:
                say(f"query: {name}: {report.model_change}")
            if report.left:
                say(f"query: {name}: {report.hint(INSIST)}")
            result.codes.append(report.exit_code)
            if report.halted is not None:
                result.problems.append(f"{name}: {report.message}")
            result.problems += [f"{name}: {image}: {reason}" for image, reason in report.problems]
    if len(errors) == len(asked):
        raise ApibenchError("\n".join(result.problems))


def _emulator(recipe: Recipe, asked: list[str]) -> AbstractContextManager[Emulator | None]:
    """One emulator for all providers, so that an image is looked at once by those who share a network; not started yet."""
    if not recipe.query.emulated:
        return nullcontext()
    from apibench.emulator import Emulator, vendors

    emulated = [name for name in asked if name in vendors.available()]  # a query says what the others lack
    return closing(Emulator({name: recipe.emulator.target_of(name) for name in emulated}, providers=emulated))


def summary(report: QueryReport) -> str:
    """A run of the engine in a line."""
    refused = len(report.rejected) + len(report.rejected_before)
    parts = [f"{report.answered} answered with {report.sent} calls", f"{report.stored} were stored"]
    parts += [f"{refused} refused"] if refused else []
    parts += [f"{len(report.failed)} failed"] if report.failed else []
    parts += [f"{report.uncertain} uncertain"] if report.uncertain else []
    parts += [f"{len(report.left)} left, their answers may be lost"] if report.left else []
    return ", ".join(parts)
