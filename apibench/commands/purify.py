"""``apibench purify``: images into purified ones."""

from __future__ import annotations

from pathlib import Path

import click

from apibench import defaults
from apibench.errors import ExitCode
from apibench.options import DEVICE, ENGINE, FOLDER, MAX_SIDE, THREADS
from apibench.terminal import beside, list_failed, tell, use_threads


@click.command()
@click.option("--images", required=True, metavar="DIR|SET", help="An image set, photographs, or pypi:foolbox.")
@click.option("--out", required=True, type=FOLDER, metavar="SET", help="Where the purified set goes.")
@click.option("--clean-out", type=FOLDER, metavar="SET", help="Where imported photographs go.  [default: OUT-clean]")
@click.option(
    "--purifier",
    required=True,
    metavar="NAME",
    help="NAME[:ARGUMENT], such as jpeg:50, or several joined by a plus; 'apibench purifiers' lists them.",
)
@click.option("--iterations", default=1, show_default=True, type=click.IntRange(1, 1000), help="How many passes.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of purifiers that draw.")
@MAX_SIDE
@THREADS
@DEVICE
@ENGINE
def purify(
    images: str,
    out: Path,
    clean_out: Path | None,
    purifier: str,
    iterations: int,
    seed: int,
    max_side: int,
    threads: int | None,
    device: str,
    engine: str,
    workers: int | None,
    address: str | None,
) -> ExitCode:
    """Purify a set of images, clean or adversarial.

    \b
    apibench purify --images sets/adv --out sets/adv-ncis --purifier ncis --iterations 4
    apibench purify --images sets/adv --out sets/adv-both --purifier jpeg:50+ncis:4
    """
    from apibench import purifiers
    from apibench.engines import EngineSettings
    from apibench.environment import differences
    from apibench.purifiers import stage
    from apibench.sources import open_source

    where = EngineSettings(engine, device, workers, threads, address)
    if engine == defaults.LOCAL:  # the machines of a cluster have their own
        use_threads(threads, device)
    chosen = purifiers.create(purifier, iterations)
    source = open_source(images, clean_out or beside(out), max_side=max_side)
    tell(source.notes)
    made = stage.purify(source.images, out, chosen, seed=seed, engine=where)
    for line in differences(made.images.records):
        click.echo(f"made on machines that differ: {line}", err=True)
    click.echo(f"{out}: {made.made} made, {made.kept} were there")
    return list_failed([*source.failed, *made.failed], source.ignored)
