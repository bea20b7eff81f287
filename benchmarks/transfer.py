"""Accuracy of held-out classifiers on clean, attacked and purified images: does the attack transfer, does purifying help?

    python benchmarks/transfer.py --clean SET --adversarial SET --target NAME... --out FILE.json [--images N] [--shard I/N]

Purifiers: gaussian and ncis at 1, 2 and 4 passes, jpeg at quality 50. Every number is printed as it is. Shards write files
that ``--merge FILE...`` adds up.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from apibench import metrics, purifiers
from apibench._torch import torch
from apibench.classifiers import load
from apibench.imageset import ImageSet, Pixels
from apibench.pixels import to_pixels, to_tensor
from apibench.progress import Progress

PASSES = (1, 2, 4)


def treatments(pixels: Pixels) -> Iterator[tuple[str, Pixels]]:
    """The image itself, then purified; iterated purifiers go on from their own last pass, unrounded."""
    yield "none", pixels
    x = to_tensor(pixels)
    for name in ("gaussian", "ncis"):
        purifier, y = purifiers.create(name, 1), x
        for done in range(1, max(PASSES) + 1):
            y = purifier.once(y)
            if done in PASSES:
                yield f"{name}/{done}", to_pixels(y.clamp(0, 1))
    yield "jpeg:50/1", to_pixels(purifiers.create("jpeg:50", 1)(x))


@torch.inference_mode()
def measure(
    clean: ImageSet, adversarial: ImageSet, targets: list[str], part: tuple[int, int]
) -> dict[str, list[float]]:
    """Right answers and images, by 'target | condition | treatment'; and decibels (PSNR) that purifying leaves of clean ones."""
    classifiers = [load(name) for name in targets]
    by_source = {record.source: record for record in adversarial.records}
    counts: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for record in Progress(clean.records[part[0] - 1 :: part[1]], "measure", unit="image"):
        for condition, images, which in (("clean", clean, record), ("attacked", adversarial, by_source[record.source])):
            for treatment, pixels in treatments(images.read_pixels(which)):
                x = to_tensor(pixels)
                if condition == "clean" and treatment != "none":
                    error = (pixels.astype(float) - images.read_pixels(which)) / 255
                    decibel = counts[f"decibel | clean | {treatment}"]
                    decibel[0] += -10 * math.log10(float((error**2).mean()))
                    decibel[1] += 1
                for classifier in classifiers:
                    count = counts[f"{classifier.name} | {condition} | {treatment}"]
                    count[0] += int(classifier(x).argmax()) == record.label
                    count[1] += 1
    return dict(counts)


def table(counts: dict[str, list[float]]) -> str:
    rows: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for key, (right, of) in counts.items():
        target, condition, treatment = key.split(" | ")
        if target == "decibel":
            rows[treatment, condition][target] = f"{right / of:.2f}"
            continue
        interval = metrics.wilson_interval(int(right), int(of))
        rows[treatment, condition][target.split("?")[0]] = f"{right / of:.3f} ({interval.low:.3f}-{interval.high:.3f})"
    names = sorted({name for row in rows.values() for name in row})
    lines = [f"| purifier | images | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    lines += [
        f"| {t} | {c} | {' | '.join(row.get(name, '') for name in names)} |" for (t, c), row in sorted(rows.items())
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clean", type=Path)
    parser.add_argument("--adversarial", type=Path)
    parser.add_argument("--target", action="append", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--shard", default="1/1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--merge", type=Path, nargs="*")
    arguments = parser.parse_args()
    if arguments.merge:
        total: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for path in arguments.merge:
            for key, (right, of) in json.loads(path.read_text()).items():
                total[key][0] += right
                total[key][1] += of
        print(table(total))
        return
    torch.set_num_threads(arguments.threads)
    index, count = map(int, arguments.shard.split("/"))
    clean, adversarial = ImageSet.load(arguments.clean), ImageSet.load(arguments.adversarial)
    counts = measure(clean, adversarial, arguments.target, (index, count))
    arguments.out.write_text(json.dumps(counts, indent=1))
    print(table(counts))


if __name__ == "__main__":
    main()
