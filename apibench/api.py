"""The Python API behind ``from apibench import ...``: what the commands do, as functions with the commands' defaults.

Paths may be text. Where a command lists on standard error what it could not do, a function warns (UserWarning) and goes on;
where a command ends with exit code 2, a function raises :class:`~apibench.errors.ApibenchError`, whose text is one to three lines
for a person. torch and the vendors' SDKs are imported by the functions that need them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from apibench import defaults
from apibench.errors import ApibenchError
from apibench.imageset import ImageSet
from apibench.query.policy import OnUncertain
from apibench.query.result import QueryReport

if TYPE_CHECKING:
    from apibench.engines import EngineSettings
    from apibench.export import Exported
    from apibench.purifiers.contract import Purifier
    from apibench.report import ReportFiles
    from apibench.report.verify import Verification
    from apibench.run import RunResult

AnyPath = str | Path
LINF, UNTARGETED = "linf", "untargeted"  # as in apibench.attacks.catalogue, which imports torch


# --- image sets ---


def open_images(
    source: AnyPath,
    clean_out: AnyPath | None = None,
    *,
    labels: AnyPath | None = None,
    max_side: int = 512,
    limit: int | None = None,
) -> ImageSet:
    """An image set: one that is there, or photographs imported into the new set ``clean_out``.

    ``source``: a set, a folder of photographs, or ``pypi:foolbox`` (20 ImageNet photographs of an installed package). Photographs
    become upright 8-bit sRGB with a longest side of at most ``max_side`` pixels. ``labels``: a CSV with the columns ``file`` and
    ``label`` (an ImageNet class, 0 to 999); None: the folder's ``labels.csv``, if any. ``limit``: only the first so many images.
    Photographs that cannot be decoded are left out with a warning; labels that do not match the photographs are told in another.
    Raises ApibenchError where there is none, or ``clean_out`` is missing or holds another set.
    """
    from apibench import sources

    _check_counts(limit=limit)
    if clean_out is None and not ImageSet.is_set(Path(source)):
        raise ApibenchError(f"{source}: photographs become an image set; say where with clean_out")
    csv = None if labels is None else Path(labels)
    out = Path(clean_out if clean_out is not None else source)
    opened = sources.open_source(str(source), out, labels=csv, max_side=max_side, limit=limit)
    _warn(reason for _, reason in opened.failed)
    for note in opened.notes:
        warnings.warn(note, stacklevel=2)
    return ImageSet(opened.images.folder, opened.images.records[:limit])


def generate(
    images: ImageSet,
    out: AnyPath,
    *,
    attack: str = defaults.ATTACK,
    epsilon: float | None = None,
    norm: str = LINF,
    steps: int = 10,
    aim: str = UNTARGETED,
    targets: AnyPath | None = None,
    surrogates: Sequence[str] = defaults.SURROGATES,
    seed: int = 0,
    chunk: int | None = None,
    device: str = "cpu",
    workers: int | None = None,
    threads: int | None = None,
) -> ImageSet:
    """The adversarial set of a clean one, as ``apibench generate`` makes it; what is in ``out`` already is kept.

    ``epsilon``: the bound, in whole levels of 255 (16, unless told), or with ``norm="l2"`` the radius for pixels in [0, 1].
    ``attack``: parts joined by hyphens, as ``apibench attacks`` lists them with their papers. ``surrogates``: the classifiers it
    looks into, by name. Raises ApibenchError for what does not go together, or where ``out`` holds a set made otherwise.
    """
    from apibench.attacks import stage
    from apibench.attacks.loop import AttackSettings

    if epsilon is None and norm != LINF:
        raise ApibenchError(f"norm {norm}: give epsilon, the radius for pixels in [0, 1]: 3 to 10 for a photograph")
    try:
        settings = AttackSettings(attack, 16 if epsilon is None else epsilon, steps, seed, norm, aim)
    except ValueError as error:
        raise ApibenchError(f"generate: {error}") from error
    csv = None if targets is None else Path(targets)
    stage.check_targets(settings, csv, "aim", "targets")
    where = _engine(device, workers, threads)
    made = stage.generate(images, Path(out), settings, surrogates, targets=csv, chunk=chunk, engine=where)
    _warn(reason for _, reason in made.failed)
    assert made.images is not None  # only a shard can leave images to others
    return made.images


def purify(
    images: ImageSet,
    out: AnyPath,
    purifier: str | Purifier = "ncis",
    *,
    iterations: int = 1,
    seed: int = 0,
    device: str = "cpu",
    workers: int | None = None,
    threads: int | None = None,
) -> ImageSet:
    """The purified set of any other, as ``apibench purify`` makes it; what is in ``out`` already is kept.

    ``purifier``: a name, as :func:`create_purifier` takes it (with ``iterations`` passes), or a purifier. Raises ApibenchError as
    that, or where ``out`` holds a set made otherwise.
    """
    from apibench import purifiers
    from apibench.purifiers import stage

    chosen = purifiers.create(purifier, iterations) if isinstance(purifier, str) else purifier
    made = stage.purify(images, Path(out), chosen, seed=seed, engine=_engine(device, workers, threads))
    _warn(reason for _, reason in made.failed)
    return made.images


def _engine(device: str, workers: int | None, threads: int | None) -> EngineSettings:
    from apibench.engines import EngineSettings
    from apibench.terminal import use_threads

    use_threads(threads, device)
    return EngineSettings(defaults.LOCAL, device, workers, threads)


# --- providers ---


def providers() -> list[str]:
    """The names of the providers that have an adapter installed: ``aws``, ``azure``, ``clarifai``, ``google``, ``local``."""
    from apibench.query import registry

    return registry.names()


def query_images(
    images: ImageSet | Sequence[ImageSet],
    store: AnyPath,
    provider: str,
    *,
    emulated: bool = False,
    target: str = defaults.TARGET,
    campaign: str = "default",
    max_calls: int | None = None,
    max_cost: float | None = None,
    on_uncertain: str = "ask-again",
    batch: int = 1,
    concurrency: int | None = None,
    timeout: float = 30.0,
    per_second: float | None = None,
    settings: Mapping[str, str | int | float | bool] | None = None,
    endpoint: str | None = None,
    prices: AnyPath | None = None,
    record: AnyPath | None = None,
    replay: AnyPath | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> QueryReport:
    """Ask a provider about every image that has no stored answer, as ``apibench query`` does, and keep what it says.

    **Without** ``emulated`` **this costs money**: the vendor is asked, with the keys of this process' environment; ``max_calls``
    and ``max_cost`` (US dollars by list price) cap the campaign over all starts. ``emulated``: a local emulator is asked with
    fake keys, and the classifier ``target`` answers. ``timeout`` in seconds, ``per_second`` in requests (None: what the vendor
    documents); ``concurrency``: requests at a time (None: by the rate). ``prices``: a price list of one's own. ``record``: a
    cassette that what is said is written to; ``replay``: one that answers, for nothing. Images without an answer are named in a
    warning. Raises ApibenchError where a value is none the command takes, or nobody can be asked.
    """
    from apibench.query import stage

    if on_uncertain not in list(OnUncertain):
        raise ApibenchError(f"on_uncertain {on_uncertain!r}: must be one of {', '.join(OnUncertain)}")
    _check_counts(max_calls=max_calls, batch=batch, concurrency=concurrency)
    query = stage.QuerySettings(
        provider=provider,
        campaign=campaign,
        emulated=emulated,
        target=target,
        endpoint=endpoint,
        max_calls=max_calls,
        max_cost=max_cost,
        on_uncertain=OnUncertain(on_uncertain),
        batch=batch,
        concurrency=concurrency,
        timeout=timeout,
        per_second=per_second,
        settings=settings or {},
        prices=_path(prices),
        record=_path(record),
        replay=_path(replay),
    )
    sets = [images] if isinstance(images, ImageSet) else list(images)
    report = stage.query_images(sets, Path(store), query, say=say)
    halted = [f"{provider}: {report.message}"] if report.halted is not None else []
    _warn([*halted, *(f"{name}: {reason}" for name, reason in report.problems)])
    return report


# --- frames and reports ---


def read_answers(store: AnyPath, campaign: str | None = None) -> pd.DataFrame:
    """What became of each image, a row an image and provider, compared with the clean image's answer: ``answers.csv`` as a frame.

    ``campaign``, ``provider``, ``origin``, ``network`` (who answered, if emulated), ``image``, ``source`` (the photograph),
    ``attack``, ``epsilon``, ``purifier``, ``outcome``, ``class`` (0 to 999, where it was given), ``label_1`` to ``label_5`` with
    ``score_1`` to ``score_5`` in [0, 1]. ``agrees_top1``, ``agrees_top5``, ``correct_top1`` and the like are nullable booleans,
    NA where nothing is known. :mod:`apibench.metrics` has functions that count them by groups. Labels are read again from the
    raw responses. Raises ApibenchError where the store cannot be read.
    """
    from apibench.report import compare, frames

    return compare.frame(compare.answers(frames.read(Path(store), campaign)))


def read_outcomes(store: AnyPath, campaign: str | None = None) -> pd.DataFrame:
    """The same without any comparison: all ``labels`` of each image, a tuple of :class:`~apibench.Label` (None: not answered).

    A row per campaign, provider, origin, settings, model version, photograph (``source``) and ``variant``; see
    :class:`apibench.report.frames.StoreFrames`. Raises ApibenchError where the store cannot be read.
    """
    from apibench.report import frames

    return frames.read(Path(store), campaign).outcomes


def write_report(
    store: AnyPath, out: AnyPath, campaign: str | None = None, *, against: str | None = None
) -> ReportFiles:
    """Write tables, pictures and the page into ``out``, as ``apibench report`` does. Raises ApibenchError.

    ``against``: another store, ``STORE:CAMPAIGN``, or another campaign of this one, to say what changed since.
    """
    from apibench import report

    return report.write_report(Path(store), Path(out), campaign, against)


def verify_report(
    store: AnyPath, out: AnyPath, campaign: str | None = None, *, against: str | None = None
) -> Verification:
    """Whether the report in ``out`` is what the store's raw responses say; nothing is written. ``holds`` is the answer.

    ``differences`` has a line a file, with the first cell or line that differs. Raises ApibenchError where there is no report.
    """
    from apibench.report import verify

    return verify.verify_report(Path(store), Path(out), campaign, against=against)


def export_store(store: AnyPath, out: AnyPath, *, images: bool = False, campaign: str | None = None) -> Exported:
    """Write a folder that can be published, as ``apibench export`` does: without keys, and with images only if asked for.

    Raises ApibenchError where ``out`` holds anything but an export, or something in the store looks like a key.
    """
    from apibench import export

    made = export.export_store(Path(store), Path(out), images=images, campaign=campaign)
    _warn(made.missing)
    return made


def run_recipe(
    recipe: AnyPath, *, images: str | None = None, out: AnyPath | None = None, say: Callable[[str], None] = print
) -> RunResult:
    """Run all stages of a recipe, as ``apibench run`` does. **A live recipe costs money.**

    ``recipe``: a file, or the name of one that comes with apibench (``demo.toml``). Raises ApibenchError where it is wrong, or
    nobody can be asked.
    """
    from apibench import recipe as recipes
    from apibench import run

    file = recipes.find(str(recipe))
    loaded = recipes.load(file, images=images, out=None if out is None else Path(out))
    run.check(loaded)
    result = run.run(loaded, say, file.read_bytes())
    _warn(result.problems)
    return result


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ApibenchError(f"{name} {count}: must be at least 1")


def _path(given: AnyPath | None) -> Path | None:
    return None if given is None else Path(given)


def _warn(reasons: Iterable[str]) -> None:
    """One warning for all that could not be done; the first five in words."""
    told = list(reasons)
    if told:
        more = f"\n... and {len(told) - 5} more" if len(told) > 5 else ""
        warnings.warn("not done: " + "\n".join(told[:5]) + more, stacklevel=3)
