"""``apibench analyze``."""

from __future__ import annotations

from pathlib import Path

import click

from apibench.errors import ExitCode
from apibench.options import FOLDER
from apibench.terminal import list_failed


@click.command()
@click.option("--clean", required=True, type=FOLDER, metavar="SET", help="The clean set the others were made from.")
@click.option(
    "--adversarial",
    "adversarial",
    required=True,
    multiple=True,
    type=FOLDER,
    metavar="SET",
    help="A set that 'apibench generate' wrote; repeat for several.",
)
@click.option("--out", required=True, type=FOLDER, metavar="DIR", help="Where analysis.md, CSV files and figures go.")
@click.option(
    "--controls/--no-controls",
    default=True,
    show_default=True,
    help="Beside each set, uniform, gaussian and sign noise of the same L-infinity.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the controls.")
def analyze(clean: Path, adversarial: tuple[Path, ...], out: Path, controls: bool, seed: int) -> ExitCode:
    """Is what an attack adds of mean zero and symmetric, patch by patch? That is what smoothing it away rests on.

    Writes tables with intervals and verdicts, histograms, spectra, and what a Gaussian smoothing takes of the noise and of the
    photographs. Nothing is written before all sets are read.

    \b
    apibench analyze --clean sets/clean --adversarial sets/mi-di-8 --adversarial sets/pgd-8 --out noise
    """
    from apibench import text
    from apibench.evaluation import noise_report
    from apibench.evaluation.analysis import analyse
    from apibench.imageset import ImageSet

    found = analyse(ImageSet.load(clean), [ImageSet.load(one) for one in adversarial], seed=seed, synthetic=controls)
    written = noise_report.write(found, out)
    for one in found:
        click.echo(f"{text.plain(one.name)} ({one.attack.images} images)")
        for line in noise_report.sentences(one):
            click.echo(f"  {line}")
        if one.unattacked:
            shown = ", ".join(text.plain(name, 60) for name in one.unattacked[:5])
            more = ", ..." if len(one.unattacked) > 5 else ""
            click.echo(f"{len(one.unattacked)} clean images have no partner in it: {shown}{more}", err=True)
    click.echo(f"analysis: {written}")
    return list_failed([problem for one in found for problem in one.failed], 0)
