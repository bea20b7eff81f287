"""Image sets made by TransferAttack's attacks, so that 'apibench evaluate SET...' can compare their strength with ours.

    python benchmarks/peer_sets.py --transferattack DIR --attack NAME[:KEY=VALUE,...]... --surrogate NAME... --clean SET
        --epsilon N... --out DIR [--steps 10] [--images N] [--seed 0] [--shard I/N]

Each attack at each epsilon becomes a set of its own, DIR/TransferAttack-..., made from the pixels of the clean set one image at a
time with generators seeded by the image. All surrogates are given to it, as an ensemble of its own, whose logits it averages (its
ensemble attacks, svre, adaea, cwa, smer, have rules of their own); resizing is inside them. Arguments are those of its classes,
whose defaults stay, random starts included; the step is epsilon / steps (cwa: twice that), and what they write as numbers for an
epsilon of 16 is in proportion. What comes back is rounded to levels of 255 and cut off at the bound, in its favour: its own
writer truncates. ``gradients`` of a record: the images that a gradient was taken of, over all networks.

Attacks that mix in other images of a batch (admix) have only the image itself here.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import peer

from apibench._torch import torch
from apibench.attacks.budgets import ball
from apibench.attacks.catalogue import LINF
from apibench.attacks.stage import Shard
from apibench.classifiers import canonical, load_all
from apibench.distortion import measured
from apibench.draws import generator
from apibench.environment import machine
from apibench.errors import ApibenchError, ExitCode
from apibench.evaluation.cells import slug
from apibench.imageset import ImageRecord, ImageSet, Pixels, SetWriter
from apibench.pixels import sources_sha256, to_pixels, to_tensor
from apibench.progress import Progress
from apibench.terminal import run_command, use_threads


def attacked(
    attack: peer.Attack,
    networks: Sequence[peer.Counted],
    clean: Pixels,
    record: ImageRecord,
    arguments: argparse.Namespace,
    epsilon: int,
) -> tuple[Pixels, int]:
    """One image, and the gradients that it took."""
    x, label = to_tensor(clean), torch.tensor([record.label])
    before = sum(network.gradients for network in networks)
    seed = generator(arguments.seed, record.pixels_sha256).initial_seed()
    try:
        noise = peer.seeded(seed, lambda: attack.make(networks, epsilon, arguments.steps)(x, label))
    except Exception as error:  # somebody else's code, on images of sizes that it may not be made for
        raise ApibenchError(f"{record.id}: {attack.text} failed ({type(error).__name__}: {error!s:.120})") from error
    if not noise.isfinite().all():
        raise ApibenchError(f"{record.id}: {attack.text} made noise that is not finite")
    adversarial = ball(LINF, x, epsilon, arguments.steps).rounded(x + noise)
    return to_pixels(adversarial), sum(network.gradients for network in networks) - before


def make(attack: peer.Attack, epsilon: int, networks: Sequence[peer.Counted], arguments: argparse.Namespace) -> None:
    """One set; images that are there are kept."""
    images, name = ImageSet.load(arguments.clean), f"TransferAttack-{attack.text}"
    records = images.records[: arguments.images]
    if any(record.label is None for record in records):
        raise ApibenchError(f"{images.folder}: TransferAttack needs labels, and not all of its images have one")
    surrogates = [canonical(surrogate) for surrogate in arguments.surrogate]
    about = {"name": name, "epsilon": epsilon, "steps": arguments.steps, "seed": arguments.seed, "norm": LINF}
    recipe = {
        "stage": "peer",
        "attack": about,
        "surrogates": surrogates,
        "images": len(records),
        "images_sha256": sources_sha256(records),
    }
    folder = arguments.out / slug(f"{name}/eps{epsilon}")
    writer, begun, made = SetWriter(folder, recipe), time.monotonic(), 0
    for record in Progress(Shard.parse(arguments.shard).of(records), f"{name}/eps{epsilon}", unit="image"):
        if writer.done(record.id) is not None:
            continue
        clean = images.read_pixels(record)
        pixels, gradients = attacked(attack, networks, clean, record, arguments, epsilon)
        writer.write(
            record.id,
            pixels,
            variant=f"{name}/eps{epsilon}",
            source=record.pixels_sha256,
            label=record.label,
            label_source=record.label_source,
            settings={"attack": about, "surrogates": surrogates},
            extra={**measured(clean, pixels), "gradients": gradients},
            **machine("cpu"),
        )
        made += 1
    writer.finish(record.id for record in records)
    each = f", {(time.monotonic() - begun) / made:.2f} s an image" if made else ""
    print(f"{folder}: {made} made{each}", flush=True)


def run(arguments: argparse.Namespace) -> ExitCode:
    use_threads(arguments.threads, "cpu")
    peer.find(arguments.transferattack)
    attacks = [peer.Attack.parse(text) for text in arguments.attack]
    networks = [peer.Counted(classifier) for classifier in load_all(arguments.surrogate)]
    for attack in attacks:  # an unknown one is found out before any is run
        attack.make(networks, 16, arguments.steps)
    for epsilon in arguments.epsilon:
        for attack in attacks:
            make(attack, epsilon, networks, arguments)
    return ExitCode.DONE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("transferattack", "clean", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("attack", "surrogate"):
        parser.add_argument(f"--{name}", nargs="+", action="extend", required=True)
    parser.add_argument("--epsilon", nargs="+", action="extend", type=int, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--images", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard", default="1/1", metavar="I/N")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    @click.command()
    def command() -> ExitCode:
        return run(arguments)

    sys.exit(run_command(command, []))


if __name__ == "__main__":
    main()
