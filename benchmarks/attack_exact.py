"""Whether the parts of our attacks do what TransferAttack's do: both run on the same model, the same image and the same draws.

    python benchmarks/attack_exact.py --transferattack DIR [--surrogate NAME...] [--images SET] [--part PART...]

Twice: in float64 on small smooth networks, where no rounding turns a sign and "same" means every value; and in float32 on
--surrogate (default: resnet18 of random weights, three of them for ensemble rules) and the first images of SET (default: drawn),
cut to a square, since some of theirs make a square of anything. Epsilon 16, ten steps of epsilon / 10, start at zero. Random
numbers are ours, fed to both in the order of use. Where we differ by decision the table says why, and a second line has our part
with that one choice made as theirs (for ``di`` and ``bsr``: their own transform in our loop, on their own draws).

Ends with 3 where a part that should be the same is not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import click
import peer
from exact_cases import CASES, Case, register

from apibench._torch import torch
from apibench.attacks.budgets import ball
from apibench.attacks.catalogue import GIVEN, LINF, UNTARGETED
from apibench.attacks.loop import AttackSettings, attack, generator
from apibench.attacks.surrogates import Surrogates
from apibench.classifiers import Classifier, InputSettings, load_all
from apibench.draws import Draws
from apibench.errors import ExitCode
from apibench.imageset import ImageSet
from apibench.pixels import LEVELS, to_tensor
from apibench.terminal import run_command, use_threads
from apibench.text import table

Tensor = torch.Tensor
EPSILON, STEPS, SMALL, SEED = 16, 10, 48, 3


class Bench:
    """Networks and images, of one type of float, that both are run on."""

    def __init__(self, classifiers: Sequence[Classifier], images: Tensor, classes: int) -> None:
        self.classifiers = classifiers
        self.images = images
        self.labels = torch.tensor([1, 2])
        self.targets = torch.tensor([classes - 1, 0])

    def ours(self, case: Case, name: str) -> Tensor:
        """(N, 3, H, W), before rounding."""
        x, labels, networks = self._of(case)
        settings = AttackSettings(name, EPSILON, case.steps, target=GIVEN if case.targeted else UNTARGETED)
        others = x.flip(0)  # of two images, the other one is mixed in

        def run() -> Tensor:
            return attack(x, labels, Surrogates(networks), settings, _generators(len(x)), lambda *_: others).images

        with mock.patch("apibench.attacks.budgets.LInfinityBall.rounded", lambda _, x: x):
            return peer.seeded(SEED, run)

    def theirs(self, case: Case, *, native: bool = False) -> Tensor:
        """The same of theirs. ``native``: with random numbers of its own."""
        x, labels, networks = self._of(case)
        more = {"random_start": False, "targeted": case.targeted}
        made = peer.Attack.parse(case.theirs).make(networks, EPSILON, case.steps, **more)
        case.adapt(made, x.dtype)
        given = torch.stack([labels, labels]) if case.targeted else labels
        with ExitStack() as stack:
            for patch in [] if native else case.replayed(Draws(_generators(len(x)))):
                stack.enter_context(patch)
            return peer.seeded(SEED, lambda: x + made(x, given))

    def _of(self, case: Case) -> tuple[Tensor, Tensor, Sequence[Classifier]]:
        labels = self.targets if case.targeted else self.labels
        return self.images[: case.images], labels[: case.images], self.classifiers[: None if case.ensemble else 1]

    def compared(self, case: Case, ours: Tensor, theirs: Tensor) -> tuple[float, float, float]:
        """The share of values equal as files hold them, the largest difference in levels, the cosine of the two noises."""
        clean = self.images[: case.images]
        a, b = (ball(LINF, clean, EPSILON, case.steps).rounded(x) for x in (ours, theirs))
        cosine = torch.nn.functional.cosine_similarity(
            (a - clean).flatten().double(), (b - clean).flatten().double(), 0
        )
        return float((a == b).double().mean()), float((ours - theirs).abs().max() * LEVELS), float(cosine)


def _generators(count: int) -> list[torch.Generator]:
    return [generator(SEED, f"image {number}") for number in range(count)]


def small() -> Bench:
    """Smooth networks of three layers, in float64, and images with black and white in them."""
    classifiers = []
    for seed in range(3):
        torch.manual_seed(seed)
        layers = [torch.nn.Conv2d(3, 12, 5, 2), torch.nn.Softplus(), torch.nn.Conv2d(12, 24, 3, 2), torch.nn.Softplus()]
        network = torch.nn.Sequential(
            *layers, torch.nn.AdaptiveAvgPool2d(3), torch.nn.Flatten(), torch.nn.Linear(216, 10)
        )
        for layer in network:
            if hasattr(layer, "weight"):
                torch.nn.init.normal_(
                    layer.weight, std=3.0 / layer.weight[0].numel() ** 0.5
                )  # bent: signs change on the way
        half = (0.5, 0.5, 0.5)
        classifiers.append(Classifier(f"small {seed}", network, InputSettings(SMALL, half, half)).double())
    return Bench(classifiers, drawn(SMALL).double().mul(LEVELS).round().div(LEVELS), 10)


def real(surrogates: Sequence[str], images: Path | None) -> Bench:
    classifiers = load_all(surrogates) if surrogates else [_untrained(seed) for seed in range(3)]
    if images is None:
        return Bench(classifiers, drawn(224), 1000)
    found = ImageSet.load(images)
    pixels = [to_tensor(found.read_pixels(record)) for record in found.records[:2]]
    side = min(min(x.shape[-2:]) for x in pixels)
    bench = Bench(classifiers, torch.cat([x[..., :side, :side] for x in pixels]), 1000)
    labels = [record.label for record in found.records[:2]]
    if None not in labels:
        bench.labels = torch.tensor(labels)
    return bench


def _untrained(seed: int) -> Classifier:
    import timm

    torch.manual_seed(seed)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return Classifier(f"resnet18 {seed}", timm.create_model("resnet18"), InputSettings(224, mean, std))


def drawn(side: int) -> Tensor:
    """Two smooth pictures with grain, whole levels of 255, (2, 3, side, side)."""
    torch.manual_seed(SEED)
    smooth = torch.nn.functional.interpolate(torch.rand(2, 3, 6, 6) * 1.6 - 0.3, (side, side), mode="bicubic")
    return (smooth + 0.05 * torch.randn(2, 3, side, side)).clamp(0, 1).mul(LEVELS).round().div(LEVELS)


def zero_gradient() -> str:
    """What each does from where the network has no gradient any more: a slope that ends after a few steps."""
    slope, one = torch.nn.Linear(3 * 8 * 8, 1, bias=False), torch.nn.Linear(1, 10)
    torch.nn.init.constant_(slope.weight, 1.0)
    network = torch.nn.Sequential(torch.nn.Flatten(), slope, torch.nn.Hardtanh(-100.0, 3.0), one).double()
    classifier = Classifier("slope", network, InputSettings(8, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))).double()
    image = torch.full((2, 3, 8, 8), 128 / LEVELS, dtype=torch.float64)
    bench, case = Bench([classifier], image, 10), Case("mi", "mifgsm")
    bench.labels = bench.labels * 0 + one.weight[:, 0].argmin()  # the way up is the way of the slope
    moved = [float((x - image[:1]).abs().max() * LEVELS) for x in (bench.ours(case, "mi"), bench.theirs(case))]
    return f"ours moves by {moved[0]:.3g} of {EPSILON} levels, theirs by {moved[1]:.3g}"


def rows(case: Case, benches: Sequence[Bench]) -> tuple[list[list[str]], bool]:
    """One line, two where a choice is switched; and whether all is as it should be."""
    ours_theirs = [[bench.compared(case, bench.ours(case, case.ours), bench.theirs(case)) for bench in benches]]
    if case.switched:
        native = case.native
        ours_theirs.append(
            [
                bench.compared(case, bench.ours(case, case.switched), bench.theirs(case, native=native))
                for bench in benches
            ]
        )
    same = [found[0][0] == 1.0 for found in ours_theirs]
    said = "; ".join(text for text in ("same", case.remark, case.differs and f"elsewhere not: {case.differs}") if text)
    verdicts = [said if same[0] else f"differs: {case.differs or 'and should not'}"]
    verdicts += ["same" if one else "differs, and should not" for one in same[1:]]
    names = [case.title, f"… {case.switch}"]
    lines = [
        [name, case.theirs, *(cell for found in each for cell in _cells(found)), verdict]
        for name, each, verdict in zip(names, ours_theirs, verdicts, strict=False)
    ]
    return lines, same[-1] or bool(case.differs and not case.switched)


def _cells(found: tuple[float, float, float]) -> list[str]:
    share, largest, cosine = found
    return [f"{100 * share:.4g}", f"{largest:.2g}", f"{cosine:.4f}"]


def run(arguments: argparse.Namespace) -> ExitCode:
    use_threads(1, "cpu")
    peer.find(arguments.transferattack, {".astype(np.float32)": ""})
    register()
    benches = [small(), real(arguments.surrogate, arguments.images)]
    lines, wrong = [], []
    for case in CASES:
        if arguments.part and case.part not in arguments.part:
            continue
        made, fine = rows(case, benches)
        lines += made
        wrong += [] if fine else [case.title]
        print("\n".join(" | ".join(line) for line in made), file=sys.stderr, flush=True)
    of = [f"{what}, {where}" for where in ("float64", "float32") for what in ("equal, %", "largest, levels", "cosine")]
    print(table(["part", "TransferAttack", *of, "verdict"], lines))
    print(f"\nWhere the gradient becomes zero after a step or two: {zero_gradient()}.")
    if wrong:
        print(f"not as they should be: {', '.join(wrong)}")
    return ExitCode.SOME_FAILED if wrong else ExitCode.DONE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transferattack", type=Path, required=True)
    parser.add_argument("--surrogate", nargs="+", action="extend", default=[])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--part", nargs="+", action="extend", default=[])
    arguments = parser.parse_args()

    @click.command()
    def command() -> ExitCode:
        return run(arguments)

    sys.exit(run_command(command, []))


if __name__ == "__main__":
    main()
