"""CPU seconds of the purifiers, beside other libraries, the plain masked network and a classifier, in one process.

    python benchmarks/purify_speed.py [--target NAME] [--device cuda] [--rounds 7] [--part smoothing|networks|all]

Timed in turn, round by round, on one thread, in process time (on a GPU: wall time, synchronised); medians are printed, and the
median of the ratios of each round with their range.

* ``gaussian`` x 10 on 16 images of 224 pixels, beside torchvision's and kornia's ``gaussian_blur`` called ten times;
* one pass of NCIS, beside the plain masked network: dense kernels times their masks in every call, as FBI-Denoiser does it, on
  the whole image, contiguous NCHW, smoothing and padding being the same; on one image of 224 x 224 and one of 384 x 512;
* one pass of NCIS at 224 beside one forward pass of the classifier it protects;
* one pass of every purifier on an image of 384 x 512.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import cast

from apibench import classifiers, purifiers, text
from apibench._torch import torch
from apibench.errors import ApibenchError
from apibench.purifiers.blindspot import BlindSpotNet, MaskedConv2d, reflect
from apibench.purifiers.ncis import NCIS

Tensor = torch.Tensor
Step = Callable[[], object]


class PlainMaskedConv2d(torch.nn.Module):
    """A dense kernel that is multiplied by its mask in every call."""

    def __init__(self, conv: MaskedConv2d) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(conv.dense().detach().clone(), requires_grad=False)
        self.register_buffer("mask", (self.weight != 0).to(self.weight))
        self.bias, self.radius, self.dilation = conv.bias, conv.radius, conv.dilation

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= cast(Tensor, self.mask)
        return torch.nn.functional.conv2d(x, self.weight, self.bias, dilation=self.dilation)


def plain(purifier: NCIS) -> Callable[[Tensor], Tensor]:
    """The same pass without any of what makes it fast."""
    network: BlindSpotNet = copy.deepcopy(purifier.network)
    for layer in network.layers:
        layer.conv = PlainMaskedConv2d(cast(MaskedConv2d, layer.conv))
    border = network.margin + purifier.smoothing.radius
    return lambda x: network(purifier.smoothing.valid(reflect(x, border))).clamp(0, 1)


def timed(steps: dict[str, Step], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each step in each round, a warm-up before."""
    clock = time.process_time if device == "cpu" else time.perf_counter

    def once(step: Step) -> float:
        started = clock()
        step()
        if device != "cpu":
            torch.cuda.synchronize()
        return clock() - started

    for step in steps.values():
        once(step)
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            found[name].append(once(step))
    return found


def rows(found: dict[str, list[float]], ours: str) -> list[tuple[str, str, str]]:
    """(what, milliseconds, times as long as ours) of each step."""
    made = []
    for name, seconds in found.items():
        ratios = [a / b for a, b in zip(seconds, found[ours], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        made.append((name, f"{1000 * statistics.median(seconds):.2f}", "" if name == ours else spread))
    return made


def show(title: str, made: list[tuple[str, str, str]], against: str) -> None:
    print(f"\n{title}\n")
    print(text.table(("what", "ms", f"times {against}"), made, right=(1,)), flush=True)


def smoothing(rounds: int, device: str) -> None:
    from kornia.filters import gaussian_blur2d
    from torchvision.transforms.v2.functional import gaussian_blur

    x = torch.rand(16, 3, 224, 224, device=device)
    for sigma in (1.0, 1.5, 5.0):
        ours = purifiers.create(f"gaussian:11,{sigma}", 10).to(device)

        def ten(blur: Callable[[Tensor], Tensor]) -> Tensor:
            y = x
            for _ in range(10):
                y = blur(y)
            return y

        blurs: dict[str, Callable[[Tensor], Tensor]] = {
            "torchvision gaussian_blur": lambda y, s=sigma: gaussian_blur(y, [11, 11], [s, s]),  # type: ignore[misc]
            "kornia gaussian_blur2d": lambda y, s=sigma: gaussian_blur2d(y, (11, 11), (s, s)),  # type: ignore[misc]
        }
        for name, blur in blurs.items():
            assert torch.allclose(ten(blur), ours(x), atol=1e-5), name
        steps: dict[str, Step] = {"gaussian": lambda ours=ours: ours(x)}  # type: ignore[misc]
        steps |= {name: lambda blur=blur: ten(blur) for name, blur in blurs.items()}  # type: ignore[misc]
        made = rows(timed(steps, rounds, device), "gaussian")
        show(f"ten passes, 16 images of 224 pixels, 11 taps, sigma {sigma:g}", made, "gaussian")


def networks(rounds: int, device: str, target: str) -> None:
    ours = cast(NCIS, purifiers.create("ncis").to(device))
    simple = plain(ours)
    classifier = classifiers.load(target).to(device)
    for size in ((224, 224), (384, 512)):
        x = torch.rand(1, 3, *size, device=device)
        assert torch.allclose(ours(x), simple(x), atol=1e-4)
        steps: dict[str, Step] = {
            "ncis": lambda x=x: ours(x),  # type: ignore[misc]
            "plain masked network": lambda x=x: simple(x),  # type: ignore[misc]
            f"forward pass of {target}": lambda x=x: classifier(x),  # type: ignore[misc]
        }
        made = rows(timed(steps, rounds, device), "ncis")
        show(f"one pass, one image of {size[0]} x {size[1]}", made, "ncis")


def all_purifiers(rounds: int, device: str) -> None:
    x = torch.rand(1, 3, 384, 512, device=device)
    steps: dict[str, Step] = {}
    for name in purifiers.names():
        try:
            purifier = purifiers.create(name).to(device)
        except ApibenchError as error:
            print(f"left out: {error}")
            continue
        steps[purifier.name] = lambda purifier=purifier: purifier(x)  # type: ignore[misc]
    show("one pass of each, one image of 384 x 512", rows(timed(steps, rounds, device), "gaussian"), "gaussian")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="tf_efficientnet_lite2", help="the classifier that NCIS protects")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--part", choices=("smoothing", "networks", "all"), help="only this part")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clock = "process time, one thread" if arguments.device == "cpu" else f"wall time, {arguments.device}"
    print(f"milliseconds, medians of {arguments.rounds} rounds, {clock}; torch {torch.__version__}")
    with torch.inference_mode():
        if arguments.part in (None, "smoothing"):
            smoothing(arguments.rounds, arguments.device)
        if arguments.part in (None, "networks"):
            networks(arguments.rounds, arguments.device, arguments.target)
        if arguments.part in (None, "all"):
            all_purifiers(arguments.rounds, arguments.device)


if __name__ == "__main__":
    main()
