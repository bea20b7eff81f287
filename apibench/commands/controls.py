"""``apibench controls``: mere distortion of the size of an attack's."""

from __future__ import annotations

from pathlib import Path

import click

from apibench.attacks.catalogue import LINF, NORMS
from apibench.errors import ExitCode
from apibench.options import FOLDER
from apibench.terminal import list_failed


@click.command()
@click.option("--clean", required=True, type=FOLDER, metavar="SET", help="The clean images.")
@click.option("--like", required=True, type=FOLDER, metavar="SET", help="Adversarial images made from them.")
@click.option(
    "--kind",
    required=True,
    type=click.Choice(["uniform", "sign", "gaussian", "blur"]),
    help="Independent noise from pixel to pixel, or a Gaussian blur.",
)
@click.option(
    "--match",
    default=LINF,
    show_default=True,
    type=click.Choice(NORMS),
    help="In which norm each is as far as its like.",
)
@click.option("--out", required=True, type=FOLDER, metavar="SET", help="Where the distorted set goes.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the random draws.")
def controls(clean: Path, like: Path, kind: str, match: str, out: Path, seed: int) -> ExitCode:
    """Distort clean images by mere noise or blur, each as far as the attack in another set went.

    What a classifier loses to these already is no merit of the attack. The distance is that of the 8-bit files: L-infinity
    exactly, L2 to within 1 % and never above; an image of which no blur goes as far is listed in the count of those short of it.

    \b
    apibench controls --clean sets/clean --like sets/adv --kind sign --match l2 --out sets/adv-sign
    """
    from apibench.attacks import controls as stage
    from apibench.imageset import ImageSet

    settings = stage.ControlSettings(kind, match, seed)
    made = stage.control(ImageSet.load(clean), ImageSet.load(like), out, settings)
    short = f"; {len(made.short)} could not be brought as far" if made.short else ""
    click.echo(f"{out}: {made.made} made, {made.kept} were there{short}")
    return list_failed(made.failed, 0)
