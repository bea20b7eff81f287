"""``apibench generate``: adversarial images that transfer."""

from __future__ import annotations

from pathlib import Path

import click

from apibench import defaults
from apibench.attacks.catalogue import AIMS, LINF, NORMS, UNTARGETED
from apibench.errors import ApibenchError, ExitCode
from apibench.options import DEVICE, ENGINE, FILE, FOLDER, MAX_SIDE, THREADS
from apibench.terminal import beside, list_failed, tell, use_threads


@click.command()
@click.option("--images", required=True, metavar="DIR|SET", help="Photographs, an image set, or pypi:foolbox.")
@click.option("--out", required=True, type=FOLDER, metavar="SET", help="Where the adversarial set goes.")
@click.option("--clean-out", type=FOLDER, metavar="SET", help="Where imported photographs go.  [default: OUT-clean]")
@click.option(
    "--labels", type=FILE, metavar="CSV", help="Columns file,label (ImageNet class 0-999).  [default: DIR/labels.csv]"
)
@click.option(
    "--surrogate",
    "surrogates",
    multiple=True,
    metavar="NAME",
    default=defaults.SURROGATES,
    show_default=True,
    help="A classifier to attack; repeat for an ensemble. pypi:NAME, timm:NAME or file:ARCH=PATH[?mean=..&std=..].",
)
@click.option(
    "--attack",
    default=defaults.ATTACK,
    show_default=True,
    metavar="NAME",
    help="Parts joined by hyphens, such as vmi-di or ssa:10-mi; 'apibench attacks' lists them.",
)
@click.option("--norm", default=LINF, show_default=True, type=click.Choice(NORMS), help="In which noise is bounded.")
@click.option(
    "--epsilon",
    type=click.FloatRange(0, min_open=True),
    help="The bound: whole levels of 255, or with l2 the radius, for pixels in [0, 1].  [default: 16 levels]",
)
@click.option("--steps", default=10, show_default=True, type=click.IntRange(1, 10_000), help="Steps of the attack.")
@click.option(
    "--aim",
    default=UNTARGETED,
    show_default=True,
    type=click.Choice(AIMS),
    help="Away from an image's class, or towards another: the least likely one, a random one, or one given by --targets.",
)
@click.option(
    "--targets", type=FILE, metavar="CSV", help="Columns file,target: a class for each image, for --aim given."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the random draws.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N images.")
@click.option("--shard", metavar="I/N", help="Only part I of N; parts run anywhere, into one folder.")
@MAX_SIDE
@THREADS
@DEVICE
@click.option(
    "--chunk",
    type=click.IntRange(1, 4096),
    help="Images attacked at a time. It changes last bits, so a set has one.  [default: 1 on a CPU, 32 on a GPU]",
)
@ENGINE
def generate(
    images: str,
    out: Path,
    clean_out: Path | None,
    labels: Path | None,
    surrogates: tuple[str, ...],
    attack: str,
    norm: str,
    epsilon: float | None,
    steps: int,
    aim: str,
    targets: Path | None,
    seed: int,
    limit: int | None,
    shard: str | None,
    max_side: int,
    threads: int | None,
    device: str,
    chunk: int | None,
    engine: str,
    workers: int | None,
    address: str | None,
) -> ExitCode:
    """Make adversarial images that transfer: attack an ensemble of public classifiers.

    Killed and started again, it keeps what is done and ends with the same bytes. The bound is checked on every file.

    \b
    apibench generate --images photos --out sets/adv --epsilon 8
    apibench generate --images photos --out sets/adv --attack vmi:5-di-logit --aim least-likely
    apibench generate --images photos --out sets/adv --norm l2 --epsilon 5
    apibench generate --images photos --out sets/adv --workers 8 --threads 1
    apibench generate --images photos --out sets/adv --engine ray --address head:6379
    """
    if epsilon is None and norm != LINF:
        raise ApibenchError(f"--norm {norm}: give --epsilon, the radius for pixels in [0, 1]: 3 to 10 for a photograph")
    from apibench.attacks import stage
    from apibench.attacks.loop import AttackSettings
    from apibench.engines import EngineSettings
    from apibench.environment import differences
    from apibench.sources import open_source

    try:
        settings = AttackSettings(attack, 16 if epsilon is None else epsilon, steps, seed, norm, aim)
    except ValueError as error:
        raise ApibenchError(f"generate: {error}") from error
    stage.check_targets(settings, targets, "--aim", "--targets")
    where = EngineSettings(engine, device, workers, threads, address)
    if engine == defaults.LOCAL:  # the machines of a cluster have their own
        use_threads(threads, device)
    part = stage.Shard.parse(shard) if shard else None
    source = open_source(images, clean_out or beside(out), labels=labels, max_side=max_side, limit=limit)
    tell(source.notes)
    made = stage.generate(
        source.images, out, settings, surrogates, targets=targets, shard=part, limit=limit, chunk=chunk, engine=where
    )
    for line in differences(made.images.records) if made.images else ():
        click.echo(f"made on machines that differ: {line}", err=True)
    waiting = "" if made.images else "; other shards have images left to make"
    click.echo(f"{out}: {made.made} made, {made.kept} were there{waiting}")
    return list_failed([*source.failed, *made.failed], source.ignored)
