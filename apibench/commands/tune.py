"""``apibench tune``: choose a setting of each purifier on images that are kept for choosing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from apibench import defaults
from apibench.errors import ExitCode
from apibench.options import DEVICE, FOLDER, THREADS
from apibench.terminal import list_failed, use_threads


@click.command()
@click.option("--clean", required=True, type=FOLDER, metavar="SET", help="Clean images with labels, kept for choosing.")
@click.option("--adversarial", required=True, type=FOLDER, metavar="SET", help="The same images, attacked.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    default=[defaults.TARGET],
    show_default=True,
    help="Repeat for several.",
)
@click.option(
    "--purifier",
    "families",
    multiple=True,
    metavar="FAMILY",
    help="What to tune; repeat.  [default: all that can be: gaussian, jpeg, ..., ncis]",
)
@click.option("--weights", multiple=True, metavar="FAMILY=FILE", help="Weights of ncis, ncis-affine or bsn; repeat.")
@click.option("--out", required=True, type=FOLDER, metavar="DIR", help="Where results and choice go.")
@click.option(
    "--objective",
    type=click.Choice(["cost", "matched"]),
    default="cost",
    show_default=True,
    help="cost: the best robust accuracy within --max-cost. matched: the others at the reference's standard accuracy.",
)
@click.option(
    "--max-cost",
    type=click.FloatRange(0, 100),
    default=5.0,
    show_default=True,
    metavar="POINTS",
    help="Most points of standard accuracy that may be lost.",
)
@click.option(
    "--budget", type=click.IntRange(1, 24), default=12, show_default=True, help="Settings that each family may try."
)
@click.option("--reference", default="ncis", show_default=True, metavar="FAMILY", help="Of --objective matched.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of purifiers that draw.")
@THREADS
@DEVICE
def tune(
    clean: Path,
    adversarial: Path,
    targets: tuple[str, ...],
    families: tuple[str, ...],
    weights: tuple[str, ...],
    out: Path,
    objective: Literal["cost", "matched"],
    max_cost: float,
    budget: int,
    reference: str,
    seed: int,
    threads: int | None,
    device: str,
) -> ExitCode:
    """Choose kernel, width, strength and passes of each purifier by an objective that is stated, with the same budget for each.

    No other images than the two sets are looked at. What was measured is kept, so it can be killed and started again.

    \b
    apibench tune --clean sets/val --adversarial sets/val-eps8 --out tuned
    apibench tune --clean sets/val --adversarial sets/val-eps8 --out tuned --purifier ncis --purifier jpeg \\
        --weights ncis=narrow.safetensors --weights ncis=wide.safetensors
    """
    from apibench.evaluation import tuning
    from apibench.imageset import ImageSet

    files = tuning.parse_weights(weights)
    chosen = list(dict.fromkeys(families)) or [
        f for f in tuning.families() if f not in tuning.WEIGHTED or f == "ncis" or f in files
    ]
    trials = {family: tuning.settings(family, files.get(family, ()), budget) for family in chosen}
    use_threads(threads, device)
    sets = (ImageSet.load(clean), ImageSet.load(adversarial))
    count = sum(map(len, trials.values()))
    click.echo(
        f"at most {count} settings of {len(trials)} purifiers, each on {len(sets[0].records)} clean and "
        f"{len(sets[1].records)} adversarial images, seen by {len(targets)} classifier{'s' if len(targets) > 1 else ''}"
    )
    done = tuning.tune(
        *sets,
        targets,
        tuning.Tuning(trials, objective, max_cost / 100, budget, reference, seed),
        out,
        click.echo,
        device,
    )
    click.echo(f"\n{done.table}\n\nobjective: {tuning.state(objective, max_cost / 100, reference)}")
    click.echo(f"choice: {out / 'choice.json'}\nplot:   {out / 'frontier.svg'}")
    return list_failed([("", problem) for problem in done.problems], 0)
