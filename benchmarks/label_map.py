"""How good the label map is, and what it says of the 20 demonstration photographs: writes ``README.md`` into a folder.

    python benchmarks/label_map.py [--answers reports/reference/demo/answers.csv] [--out reports/reference/labels]

Answers are a report's ``answers.csv`` of the photographs of pypi:foolbox. Takes seconds; needs neither torch nor WordNet.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from apibench import photographs, text
from apibench.labels import checked, vocabulary
from apibench.labels.checked import Pair, Score
from apibench.labels.match import LIMITS, RULE, RULE_VERSION, Limits, Rule, match, match_within, names_class
from apibench.metrics import Proportion

FIRST = 5  # labels shown of each answer
CLASSES = (0, 10, 30, 60, 120, 250, 1000)
STEPS = (1, 2, 3, 5, 7, 17)
CUMULATIVE: tuple[tuple[Rule, ...], ...] = (("name",), ("name", "ancestor"), ("name", "ancestor", "alias"))
ORIGINS = {"drawn": "drawn by chance", "vendor": "of classes drawn by chance", "hard": "picked to be hard"}


def share(proportion: Proportion) -> str:
    """``98.4 [95.6, 99.5] (184/187)``, in per cent with Wilson's 95 % interval."""
    interval = proportion.interval
    if interval is None:
        return "–"
    bounds = f"[{text.percent(interval.low)}, {text.percent(interval.high)}]"
    return f"{text.percent(proportion.k / proportion.n)} {bounds} ({proportion.k}/{proportion.n})"


def sample() -> str:
    """How many pairs there are, by half and origin."""
    rows = []
    for half in checked.HALVES:
        for origin, title in ORIGINS.items():
            found = [pair for pair in checked.pairs(half) if pair.origin == origin]
            if found:
                rows.append((half, title, str(len(found)), str(sum(pair.names for pair in found))))
    return text.table(("half", "labels", "pairs", "of them right"), rows, right=(2, 3))


def by_rule() -> str:
    """Precision and recall as the rules are added, and of each rule's matches alone."""
    rows = []
    for half in checked.HALVES:
        judged = checked.pairs(half)
        for rules in CUMULATIVE:
            found = checked.score(judged, LIMITS, rules)
            alone = checked.score(judged, LIMITS, rules[-1:]).precision
            rows.append((half, " + ".join(rules), share(found.precision), share(found.recall), share(alone)))
    head = ("half", "rules", "precision, %", "recall, %", "precision of the last alone, %")
    return text.table(head, rows)


def trade_off(judged: Sequence[Pair], by_hand: bool) -> str:
    """Precision / recall under limits on the classes that an ancestor covers (rows) and the steps it lies up (columns)."""
    rows = []
    for classes in CLASSES:
        found = [checked.score(judged, Limits(classes, steps, by_hand)) for steps in STEPS]
        rows.append((str(classes), *(both(one) for one in found)))
    head = ("at most … classes", *(f"{steps} step{'s' * (steps > 1)}" for steps in STEPS))
    return text.table(head, rows, right=range(1 + len(STEPS)))


def both(found: Score) -> str:
    shares = (found.precision, found.recall)
    return " / ".join(text.percent(one.k / one.n if one.n else None) for one in shares)


def confusions() -> int:
    """In how many pairs the vocabulary's name of a class names another class too."""
    classes = vocabulary().classes
    return sum(match_within(a.name, b.index, LIMITS).matched for a in classes for b in classes if a is not b)


def mistakes(half: str) -> str:
    """The pairs on which rule and judgement differ."""
    rows = []
    for pair in checked.mistakes(checked.pairs(half)):
        name = vocabulary().classes[pair.index].name
        said = match(pair.label, pair.index)
        verdict = f"wrongly, by {said.rule}: {said.via}" if said.matched else "missed"
        rows.append((text.markdown(pair.label), f"{pair.index} {text.markdown(name)}", text.markdown(verdict)))
    return text.table(("label", "class", "the rule"), rows)


def demonstration(answers: Path) -> Iterator[str]:
    """Each photograph's class and first labels by provider, those that match in bold with the rule."""
    classes = {each.id: each.label for each in photographs.packaged("pypi:foolbox")}
    with answers.open(newline="", encoding="utf-8") as file:
        clean = [row for row in csv.DictReader(file) if (row["attack"], row["purifier"]) == ("clean", "none")]
    right: dict[str, list[int]] = {}
    cells = []
    for row in sorted(clean, key=lambda row: (row["image"], row["provider"])):
        index = classes[row["image"]]
        assert index is not None
        labels = [row[f"label_{n}"] for n in range(1, FIRST + 1) if row[f"label_{n}"]]
        counts = right.setdefault(row["title"], [0, 0, 0])
        counts[0] += 1
        named = [names_class(label, index) for label in labels]
        counts[1] += any(named[:1])
        counts[2] += any(named)
        photograph = f"`{row['image']}`: {index} {text.markdown(vocabulary().classes[index].name)}"
        cells.append((photograph, text.markdown(row["title"]), ", ".join(shown(label, index) for label in labels)))
    networks = sorted({f"{row['origin']}, {row['network']}" for row in clean})
    yield f"Clean photographs, not purified; {text.markdown('; '.join(networks))}."
    head = ("provider", "photographs", "correct at 1", f"correct at {FIRST}")
    totals = [(text.markdown(title), *map(str, counts)) for title, counts in sorted(right.items())]
    yield text.table(head, totals, right=(1, 2, 3))
    yield text.table(("photograph and class", "provider", f"first {FIRST} labels"), cells)


def shown(label: str, index: int) -> str:
    found = match(label, index)
    return f"**{text.markdown(label)}** ({found.rule})" if found.matched else text.markdown(label)


def document(answers: Path) -> str:
    choose = checked.pairs("choose")
    return "\n\n".join(
        (
            f"# The label map, version {RULE_VERSION}",
            f"The rule: {RULE}. It stands in `apibench/labels/match.py`; the lists are `data/labels/aliases.json`. Why a label "
            'matches: `apibench labels explain "Golden Retriever" --class 207`. This page: `python benchmarks/label_map.py`.',
            "## The sample",
            f"{len(checked.pairs())} pairs of a label and a class (`data/labels/checked_pairs.csv`), each judged by hand without "
            "the rule's answer in view: would a person who is asked what the object is take the label for an answer?\n"
            "- *choose* was looked at while limits and lists were made, so the rule's figures on it flatter.\n"
            "- *measure* was not measured before they were fixed; but whoever wrote the lists had judged its pairs before, so "
            "its figures flatter too, if less.\n"
            "- *blind* was drawn (from the label names of Open Images V6, Google, CC BY 4.0; by a word in common with the class "
            "or something above it) and judged after they were fixed. Its labels are a vocabulary's, not what a vendor says of a "
            "photograph: most right ones that are missed are kinds of the class (Common wombat, Public library).",
            sample(),
            "## Precision and recall",
            "Wilson's 95 % intervals. A wrong match counts as correct an answer that is not; a missed one the other way round.",
            by_rule(),
            "What no sample is needed for: of the 999,000 pairs of a class's name and another class, "
            f"{confusions()} match (Sunglass and Sunglasses, Laptop and Notebook Computer, Mushroom and the mushrooms). More "
            "general words do so by design: an answer that says Dog stays correct when an attack makes another breed of a dog.",
            "## What the limits do",
            "Precision / recall in per cent on *choose*. By limits alone, without anything written by hand, precision falls as "
            "recall rises: how much a word covers, or how far up it lies, does not tell what people would call the object (Dog "
            "covers 118 classes, Musical Instrument 26):",
            trade_off(choose, by_hand=False),
            "With the lists (what names a kind of things, what homonyms stand for, aliases), the limits only keep out what the "
            f"lists may have missed. Chosen were {LIMITS.classes} classes and {LIMITS.steps} steps, which let Dog and Bird in:",
            trade_off(choose, by_hand=True),
            "## Where rule and judgement differ",
            *(part for half in checked.HALVES for part in (f"On *{half}*:", mistakes(half))),
            "## The 20 demonstration photographs",
            *demonstration(answers),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, default=Path("reports/reference/demo/answers.csv"))
    parser.add_argument("--out", type=Path, default=Path("reports/reference/labels"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "README.md").write_text(document(given.answers) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
