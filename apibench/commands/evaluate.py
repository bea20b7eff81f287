"""``apibench evaluate``: classifiers × attacks × purifiers on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from apibench import text
from apibench.errors import ApibenchError, ExitCode
from apibench.options import DEVICE, FILE, FOLDER, THREADS
from apibench.terminal import list_failed, use_threads


@click.command()
@click.option(
    "--recipe", default="imagenet.toml", show_default=True, metavar="TOML", help="A file, or one that comes along."
)
@click.option("--out", type=FOLDER, metavar="DIR", help="Instead of the recipe's out.  [default: reports/NAME]")
@click.option("--images", metavar="DIR|SET", help="Instead of the recipe's images.source; they need labels.")
@click.option("--labels", type=FILE, metavar="CSV", help="Instead of the recipe's images.labels.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N images.")
@click.option("--target", "targets", multiple=True, metavar="NAME", help="Instead of the recipe's classifiers; repeat.")
@click.option(
    "--surrogate",
    "surrogates",
    multiple=True,
    metavar="NAME",
    help="Instead of the surrogates of transfer attacks; repeat.",
)
@click.option(
    "--aware/--no-aware", default=True, show_default=True, help="Run the purifier-aware attacks of the recipe."
)
@click.option("--shard", metavar="I/N", help="Only part I of N of the work; parts run at once, into one folder.")
@click.option("--report-only", is_flag=True, help="Make tables and plots from the results there are; measure nothing.")
@click.option("--attacks", is_flag=True, help="List the attacks that a recipe may name; measure nothing.")
@THREADS
@DEVICE
def evaluate(
    recipe: str,
    out: Path | None,
    images: str | None,
    labels: Path | None,
    limit: int | None,
    targets: tuple[str, ...],
    surrogates: tuple[str, ...],
    aware: bool,
    shard: str | None,
    report_only: bool,
    attacks: bool,
    threads: int | None,
    device: str,
) -> ExitCode:
    """Measure standard and robust accuracy of real classifiers, attacked, behind purifiers.

    What is already in OUT is not done again; killed, it goes on where it was. Every result is a file in OUT/cells, and
    report.md, accuracy.csv, matched.csv and the frontiers are made from these files alone.

    \b
    apibench evaluate
    apibench evaluate --recipe imagenet-paper.toml --images ILSVRC/val --labels val.csv --device cuda
    apibench evaluate --out reports/mine --target file:mobilenetv2_100=weights.safetensors --target tf_efficientnet_lite2
    """
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


def _attacks() -> str:
    """The table of attacks, in Markdown."""
    from apibench.evaluation import library

    head = ("attack", "norm", "access", "steps", "library", "paper")
    body = [
        (info.name, info.norm, info.sees, f"{info.steps} {info.unit}", info.package or "apibench", info.paper)
        for info in library.describe()
    ]
    return text.table(head, [[text.markdown(cell) for cell in row] for row in body])
