"""What the intervals and tests of a report are worth on simulated data: nominal 95 %, measured.

    python benchmarks/interval_coverage.py [--repeats 20000] [--seed 0]

- Wilson's interval: how often it has the true share in it.
- Newcombe's interval of a paired difference: so many images, of which a share agrees under attack, and purified ones agree again
  or are lost with fixed probabilities; how often it has the true difference in it.
- The bootstrap of a recovery, over the same images: how often it has the true recovery in it, where one is defined.
- McNemar's exact test where nothing changed: how often p is below 5 % (never oftener than in 5 %; p has but few values).
- Holm's correction over ten purifiers of which none changes anything, on the same images: how often any p is below 5 %, and how
  often without the correction.

Prints Markdown. The same seed gives the same numbers.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from apibench import metrics, text
from apibench.metrics import PairedCounts

SIZES = (20, 50, 100, 250)
SHARES = (0.05, 0.2, 0.5, 0.8, 0.95)
# Agreement attacked, share of the lost that come back, share of the kept that are lost.
CASES = ((0.2, 0.5, 0.05), (0.5, 0.3, 0.1), (0.5, 0.0, 0.0), (0.8, 0.6, 0.02), (0.8, 0.1, 0.1))
FAMILY = 10
Counts = npt.NDArray[np.int64]


def pairs(
    draw: np.random.Generator, n: int, case: tuple[float, float, float], repeats: int
) -> Iterator[tuple[PairedCounts, int]]:
    """Simulated counts, and how often each came up: the same counts are looked at once."""
    attacked, back, lost = case
    cells = [attacked * (1 - lost), (1 - attacked) * back, attacked * lost, (1 - attacked) * (1 - back)]
    drawn: Counts = draw.multinomial(n, cells, size=repeats)
    found, times = np.unique(drawn, axis=0, return_counts=True)
    for counts, count in zip(found.tolist(), times.tolist(), strict=True):
        yield PairedCounts(*counts), count


def wilson(draw: np.random.Generator, repeats: int) -> str:
    body = []
    for n in SIZES:
        cells = [str(n)]
        for share in SHARES:
            counted = Counter(draw.binomial(n, share, size=repeats).tolist())
            cells.append(
                percent(sum(c for k, c in counted.items() if within(metrics.wilson_interval(k, n), share)), repeats)
            )
        body.append(cells)
    return text.table(["n", *(f"p = {share:g}" for share in SHARES)], body, right=range(len(SHARES) + 1))


def newcombe(draw: np.random.Generator, repeats: int) -> str:
    body = []
    for n in SIZES:
        cells = [str(n)]
        for case in CASES:
            attacked, back, lost = case
            truth = (1 - attacked) * back - attacked * lost
            drawn = pairs(draw, n, case, repeats)
            cells.append(percent(sum(c for one, c in drawn if within(metrics.newcombe_interval(one), truth)), repeats))
        body.append(cells)
    return text.table(["n", *map(named, CASES)], body, right=range(len(CASES) + 1))


def recovery(draw: np.random.Generator, repeats: int) -> str:
    """Fewer repeats: each has a bootstrap of its own."""
    body = []
    for n in SIZES:
        cells = [str(n)]
        for case in CASES:
            attacked, back, lost = case
            truth = back - attacked * lost / (1 - attacked)
            covered = defined = 0
            for one, count in pairs(draw, n, case, repeats):
                before = [True] * (one.both + one.before_only) + [False] * (one.after_only + one.neither)
                after = [True] * one.both + [False] * one.before_only + [True] * one.after_only + [False] * one.neither
                found = metrics.recovery(before, after)
                if found is not None:
                    defined += count
                    covered += count * (found.low - 1e-9 <= truth <= found.high + 1e-9)
            cells.append(f"{percent(covered, defined)} ({percent(defined, repeats)})")
        body.append(cells)
    return text.table(["n", *map(named, CASES)], body, right=range(len(CASES) + 1))


def mcnemar(draw: np.random.Generator, repeats: int) -> str:
    discordances = (0.05, 0.1, 0.2, 0.4)
    body = []
    for n in SIZES:
        cells = [str(n)]
        for discordance in discordances:
            drawn = pairs(draw, n, (0.5, discordance, discordance), repeats)
            cells.append(percent(sum(c for one, c in drawn if metrics.mcnemar_p(one) < metrics.ALPHA), repeats))
        body.append(cells)
    return text.table(["n", *(f"discordant {d:g}" for d in discordances)], body, right=range(len(discordances) + 1))


def holm(draw: np.random.Generator, repeats: int) -> str:
    """Half of the images agree under attack; each purifier changes a share of them, as many one way as the other."""
    body = []
    for n in SIZES:
        cells = [str(n)]
        for discordance in (0.2, 0.4):
            plain = corrected = 0
            before = draw.random((repeats, 1, n)) < 0.5
            changed = draw.random((repeats, FAMILY, n)) < discordance
            won, lost = (changed & ~before).sum(axis=2), (changed & before).sum(axis=2)
            for row in range(repeats):
                p = [metrics.sign_test_p(int(w), int(s)) for w, s in zip(won[row], lost[row], strict=True)]
                plain += min(p) < metrics.ALPHA
                corrected += min(metrics.holm(p)) < metrics.ALPHA
            cells += [percent(plain, repeats), percent(corrected, repeats)]
        body.append(cells)
    head = ["n", *(f"discordant {d:g}, {how}" for d in (0.2, 0.4) for how in ("as they are", "Holm"))]
    return text.table(head, body, right=range(5))


def named(case: tuple[float, float, float]) -> str:
    return "attacked {:g}, back {:g}, lost {:g}".format(*case)


def within(interval: metrics.Interval, truth: float) -> bool:
    return interval.low - 1e-9 <= truth <= interval.high + 1e-9


def percent(part: int, whole: int) -> str:
    return text.percent(part / whole) if whole else "–"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    few = max(1, given.repeats // 10)
    draw = np.random.default_rng(given.seed)
    parts = (
        ("Wilson's interval, coverage in %", wilson, given.repeats),
        ("Newcombe's interval of a paired difference, coverage in %", newcombe, given.repeats),
        (
            "Bootstrap of a recovery, coverage in % (in parentheses: of so many % of the samples it is defined)",
            recovery,
            few,
        ),
        ("McNemar's exact test where nothing changed, p < 0.05 in %", mcnemar, given.repeats),
        (f"{FAMILY} comparisons where nothing changed, any p < 0.05 in %", holm, few),
    )
    for title, make, repeats in parts:
        print(f"### {title}; {repeats} repeats\n\n{make(draw, repeats)}\n", flush=True)


if __name__ == "__main__":
    main()
