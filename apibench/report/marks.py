"""What became of one image's first label, in a word and a sign: the page's marks, decided by ``Answers.flag`` alone."""

from __future__ import annotations

from dataclasses import dataclass

from apibench import text
from apibench.report.compare import NONE, Answers


@dataclass(frozen=True)
class Mark:
    """``kind`` is the style, ``sign`` and ``word`` say the same without colour. Signs have no emoji form."""

    kind: str
    sign: str
    word: str


REFERENCE = Mark("reference", "•", "clean: the reference")
NO_LABEL = Mark("unknown", "–", "no label to compare")
KEPT = Mark("kept", "=", "kept")
LOST = Mark("lost", "✕", "lost")
BACK = Mark("back", "↺", "came back")
STILL = Mark("lost", "✕", "still lost")
LOST_PURIFIED = Mark("changed", "≠", "lost when purified")
CHANGED = Mark("changed", "≠", "changed by the purifier")
NO_REFERENCE = Mark("unknown", "–", "no clean label")
FAILED = Mark("unknown", "?", "failed, not counted")
NOT_ASKED = Mark("unknown", "–", "not asked")
OTHER_VERSION = Mark("unknown", "–", "answered by another model version")

# What an attack did to an image in the eyes of one provider, purifiers counted: the letters that the page's filter goes by.
FATES = {"b": BACK, "l": LOST, "k": KEPT, "u": Mark("unknown", "?", "not known")}


def mark(answers: Answers, attack: str, purifier: str, source: str) -> Mark:
    """The mark of one variant of one image."""
    answer = answers.by_variant.get((attack, purifier), {}).get(source)
    if answer is None:
        return NOT_ASKED
    if answer.outcome == "failed":
        return FAILED
    flag = answers.flag(attack, purifier, source)
    if (attack, purifier) == ("clean", NONE):
        return NO_LABEL if flag is None else REFERENCE
    if flag is None:
        return NO_REFERENCE
    if purifier == NONE:
        return KEPT if flag else LOST
    if attack == "clean":
        return KEPT if flag else CHANGED
    before = answers.flag(attack, NONE, source)
    if flag:
        return BACK if before is False else KEPT
    return {False: STILL, True: LOST_PURIFIED, None: LOST}[before]


def said(answers: Answers, attack: str, purifier: str, source: str) -> str:
    """Why there are no labels, in words; empty where there are some. May hold a vendor's own text."""
    answer = answers.by_variant.get((attack, purifier), {}).get(source)
    if answer is None:
        return ""  # the mark says it
    if answer.labels:
        return ""
    counts = answers.flag(attack, purifier, source) is False
    words = {
        "answered": "answered without a label",
        "rejected": "refused, which counts as another label" if counts else "refused",
    }
    reason = answer.error.removeprefix(answer.outcome).strip()
    return text.plain(": ".join(part for part in (words.get(answer.outcome, answer.outcome), reason) if part), 120)


def fate(answers: Answers, attack: str, source: str) -> str:
    """A letter of FATES."""
    flag = answers.flag(attack, NONE, source)
    if flag is None:
        return "u"
    if flag:
        return "k"
    return "b" if any(answers.flag(attack, purifier, source) for purifier in answers.purifiers(attack)) else "l"


def changed_clean(answers: Answers, source: str) -> bool:
    """Whether some purifier alone changed the first label of the clean image."""
    return any(answers.flag("clean", purifier, source) is False for purifier in answers.purifiers(None))
