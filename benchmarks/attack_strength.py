"""How strong attacks are on classifiers they have not seen, and what they cost: sets made, then measured, in one go.

    python benchmarks/attack_strength.py --clean SET --surrogate NAME... --target NAME... --attack NAME... --epsilon N...
        --out DIR [--images N] [--steps 10] [--norm linf] [--aim untargeted] [--seed 0] [--reference ATTACK] [--shard I/N]

``--clean`` is a clean image set with labels; ``--images`` takes its first N. Each attack at each epsilon is made into a folder of
its own, DIR/sets/..., by the stage that 'apibench generate' is, and DIR is then what 'apibench evaluate SET...' makes of them:
accuracy and attack success with intervals, the network-gradients of an image, paired comparisons, plots. Killed, it goes on where
it was; sets that are there are kept, so that attacks can be added one by one. Shards share out the images of each set; when they
are done, one run without --shard measures.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import click

from apibench.attacks.catalogue import AIMS, GIVEN, UNTARGETED
from apibench.attacks.loop import AttackSettings
from apibench.attacks.stage import Shard, generate
from apibench.engines import EngineSettings
from apibench.errors import ApibenchError, ExitCode
from apibench.evaluation import transfer, transfer_report
from apibench.evaluation.cells import slug
from apibench.evaluation.measure import Classifiers
from apibench.imageset import ImageSet
from apibench.terminal import list_failed, run_command, use_threads


def attacks(arguments: argparse.Namespace) -> list[AttackSettings]:
    """Every attack at every epsilon, all checked before any is made. Raises ApibenchError naming the first that is none."""
    found = []
    for epsilon in arguments.epsilon:
        for name in arguments.attack:
            try:
                found.append(
                    AttackSettings(
                        name, epsilon, arguments.steps, seed=arguments.seed, norm=arguments.norm, target=arguments.aim
                    )
                )
            except ValueError as error:
                raise ApibenchError(f"{name}: {error}") from error
    return list(dict.fromkeys(found))  # however often, and in whatever order of its parts, an attack is named


def run(arguments: argparse.Namespace) -> ExitCode:
    use_threads(arguments.threads, arguments.device)
    wanted, clean = attacks(arguments), ImageSet.load(arguments.clean)
    Classifiers(arguments.target)  # an unknown name is found out before hours are spent
    part = Shard.parse(arguments.shard) if arguments.shard else None
    folders, failed, waiting = [], [], False
    for number, settings in enumerate(wanted, start=1):
        folder, begun = arguments.out / "sets" / slug(settings.variant), time.monotonic()
        made = generate(
            clean,
            folder,
            settings,
            arguments.surrogate,
            shard=part,
            limit=arguments.images,
            engine=EngineSettings(device=arguments.device),
        )
        print(f"{number}/{len(wanted)}: {settings.variant}: {made.made} made, {made.kept} were there", end="")
        print(f", {(time.monotonic() - begun) / made.made:.2f} s an image" if made.made else "", flush=True)
        folders.append(folder)
        failed += [("", reason) for _, reason in made.failed]
        waiting |= made.images is None
    if part or waiting:
        print("when every shard is done, run this without --shard to measure")
        return list_failed(failed, 0)
    done = transfer.evaluate(
        folders,
        arguments.target,
        arguments.out,
        print,
        clean=arguments.clean,
        reference=arguments.reference,
        device=arguments.device,
    )
    written = transfer_report.write(arguments.out)
    print(f"\n{written.main_table}\n\nreport: {written.report}\ntable:  {written.table}")
    return list_failed([*failed, *(("", problem) for problem in done.problems)], 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clean", type=Path, required=True)
    for name in ("surrogate", "target", "attack"):
        parser.add_argument(f"--{name}", nargs="+", action="extend", required=True)
    parser.add_argument("--epsilon", nargs="+", action="extend", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--aim", default=UNTARGETED, choices=[aim for aim in AIMS if aim != GIVEN])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reference", metavar="ATTACK")
    parser.add_argument("--shard", metavar="I/N")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def main() -> None:
    arguments = parse()

    @click.command()
    def command() -> ExitCode:
        return run(arguments)

    sys.exit(run_command(command, []))


if __name__ == "__main__":
    main()
