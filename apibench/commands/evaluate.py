"""``apibench evaluate``: classifiers on sets of images, or classifiers × attacks × purifiers of a recipe."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from apibench import text
from apibench.errors import ApibenchError, ExitCode
from apibench.options import DEVICE, FILE, FOLDER, THREADS
from apibench.terminal import list_failed, use_threads

# Which options belong to which of the two ways of asking; the others belong to both.
_OF_RECIPES = ("recipe", "images", "labels", "limit", "surrogates", "aware", "report_only", "attacks")
_OF_SETS = ("clean", "reference")


@click.command()
@click.argument("sets", nargs=-1, type=FOLDER, metavar="[SET]...")
@click.option(
    "--target", "targets", multiple=True, metavar="NAME", help="A classifier to ask; repeat. Needed with SETs."
)
@click.option(
    "--out", type=FOLDER, metavar="DIR", help="Where results go.  [default: reports/transfer; reports/NAME of a recipe]"
)
@click.option("--shard", metavar="I/N", help="Only part I of N of the work; parts run at once, into one folder.")
@click.option(
    "--clean", type=FOLDER, metavar="SET", help="With SETs: their clean images, where they are in none of them."
)
@click.option(
    "--reference",
    metavar="ATTACK",
    help="With SETs: what the others of its epsilon are compared with, such as mi-di.  [default: the strongest]",
)
@click.option(
    "--recipe", default="imagenet.toml", show_default=True, metavar="TOML", help="A file, or one that comes along."
)
@click.option("--images", metavar="DIR|SET", help="Instead of the recipe's images.source; they need labels.")
@click.option("--labels", type=FILE, metavar="CSV", help="Instead of the recipe's images.labels.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the recipe's first N images.")
@click.option(
    "--surrogate",
    "surrogates",
    multiple=True,
    metavar="NAME",
    help="Instead of the surrogates of the recipe's transfer attacks; repeat.",
)
@click.option(
    "--aware/--no-aware", default=True, show_default=True, help="Run the purifier-aware attacks of the recipe."
)
@click.option("--report-only", is_flag=True, help="Make tables and plots from the results there are; measure nothing.")
@click.option("--attacks", is_flag=True, help="List the attacks that a recipe may name; measure nothing.")
@THREADS
@DEVICE
@click.pass_context
def evaluate(
    context: click.Context,
    sets: tuple[Path, ...],
    targets: tuple[str, ...],
    out: Path | None,
    shard: str | None,
    clean: Path | None,
    reference: str | None,
    recipe: str,
    images: str | None,
    labels: Path | None,
    limit: int | None,
    surrogates: tuple[str, ...],
    aware: bool,
    report_only: bool,
    attacks: bool,
    threads: int | None,
    device: str,
) -> ExitCode:
    """Measure real classifiers on adversarial images: sets that are there already, or all that a recipe names.

    With SETs (of 'generate' or 'purify', several attacks and epsilons at once): accuracy and attack success of each --target,
    per attack and epsilon, attacks of one epsilon compared. The clean images are the SET that nobody attacked, or --clean. OUT
    gets transfer.md, transfer.csv and a plot of epsilon against accuracy a classifier.

    \b
    apibench evaluate sets/clean sets/mi-di-8 sets/mi-di-16 --target tf_efficientnet_lite2 --target timm:resnet50
    apibench evaluate sets/*-8 --clean sets/clean --target timm:resnet50 --reference mi-di --out reports/eps8

    Without: standard and robust accuracy of a recipe's classifiers, attacked, behind its purifiers. OUT gets report.md,
    accuracy.csv, matched.csv and the frontiers.

    \b
    apibench evaluate
    apibench evaluate --recipe imagenet-paper.toml --images ILSVRC/val --labels val.csv --device cuda
    apibench evaluate --out reports/mine --target file:mobilenetv2_100=weights.safetensors --target tf_efficientnet_lite2

    What is already in OUT is not done again; killed, it goes on where it was. Every result is a file in OUT/cells, and tables
    and plots are made from these files alone.
    """
    _refuse_mixture(context, of_sets=bool(sets))
    if sets:
        return _evaluate_sets(sets, targets, out or Path("reports/transfer"), clean, reference, shard, threads, device)
    if attacks:
        click.echo(_attacks())
        return ExitCode.DONE
    from apibench import recipe as recipes
    from apibench.evaluation import protocol, report

    loaded = protocol.load(
        recipes.find(recipe),
        images=images,
        labels=labels,
        out=out,
        limit=limit,
        classifiers=targets,
        surrogates=surrogates,
        aware=aware,
    )
    problems: list[str] = []
    if not report_only:
        from apibench.attacks.stage import Shard
        from apibench.evaluation import local

        use_threads(threads, device)
        done = local.evaluate(local.Evaluation(loaded, device), click.echo, shard=Shard.parse(shard) if shard else None)
        problems = done.problems
        if done.waiting:
            return list_failed([("", problem) for problem in problems], 0)
    elif not loaded.folder.is_dir():
        raise ApibenchError(f"{loaded.folder}: there are no results yet")
    written = report.write(loaded.folder)
    click.echo(f"report: {written.report}")
    for path in written.plots:
        click.echo(f"plot:   {path}")
    return list_failed([("", problem) for problem in problems], 0)


def _refuse_mixture(context: click.Context, *, of_sets: bool) -> None:
    """Raise ApibenchError for an option that belongs to the other way of asking."""
    strangers = _OF_RECIPES if of_sets else _OF_SETS
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
        if given and parameter.name in strangers:
            remedy = "leave it out, or leave the SETs out" if of_sets else "name SETs before it"
            raise ApibenchError(f"{parameter.opts[0]} goes {'with a recipe' if of_sets else 'with SETs'}: {remedy}")


def _evaluate_sets(
    sets: tuple[Path, ...],
    targets: tuple[str, ...],
    out: Path,
    clean: Path | None,
    reference: str | None,
    shard: str | None,
    threads: int | None,
    device: str,
) -> ExitCode:
    if not targets:
        raise ApibenchError("name the classifiers to ask: --target NAME (repeat)")
    from apibench.attacks.stage import Shard
    from apibench.evaluation import transfer, transfer_report

    use_threads(threads, device)
    part = Shard.parse(shard) if shard else None
    done = transfer.evaluate(
        sets, targets, out, click.echo, clean=clean, reference=reference, shard=part, device=device
    )
    if not done.waiting:
        written = transfer_report.write(out)
        click.echo(f"\n{written.main_table}\n\nreport: {written.report}\ntable:  {written.table}")
        for path in written.plots:
            click.echo(f"plot:   {path}")
    return list_failed([("", problem) for problem in done.problems], 0)


def _attacks() -> str:
    """The table of attacks, in Markdown."""
    from apibench.evaluation import library

    head = ("attack", "norm", "access", "steps", "library", "paper")
    body = [
        (info.name, info.norm, info.sees, f"{info.steps} {info.unit}", info.package or "apibench", info.paper)
        for info in library.describe()
    ]
    return text.table(head, [[text.markdown(cell) for cell in row] for row in body])
