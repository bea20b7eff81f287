"""The photographs of the page: every version of each, and what every provider said of it.

A card is made when it is asked for, so that a thousand photographs need no more memory than one. All text from outside goes
through ``text.plain`` here; numbers are what the page's own machinery goes by.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import compress

from PIL import Image, features

from apibench import labels, metrics, text
from apibench.imageset import Pixels
from apibench.report import marks, tables
from apibench.report.compare import NONE, Answers, Group, natural
from apibench.report.frames import GROUP
from apibench.report.marks import Mark
from apibench.report.picture import AMPLIFY, Files, difference

SIDE = 224  # pixels of a thumbnail's longest side
LABELS = 3  # shown under each picture
# Of WebP. The amplified difference is noise: at the same quality, three times the bytes for nothing that can be seen.
_QUALITY, _NOISE_QUALITY = 75, 20
_RANK = {"b": 0, "l": 1, "k": 2, "u": 3}


@dataclass(frozen=True)
class Who:
    """One group as the page calls it. ``number`` is what the filter and the page's code know it by."""

    number: int
    name: str
    more: str  # what else tells it apart; empty where the name does
    answers: Answers

    @property
    def details(self) -> list[tuple[str, str]]:
        about = self.answers.group
        return [
            ("Campaign", text.plain(about.campaign, 80)),
            ("Origin", text.plain(about.origin, 20)),
            ("Answered by", text.plain(about.network or about.model_version or "not said", 100)),
            ("Settings", text.plain(about.settings, 300)),
        ]


@dataclass(frozen=True)
class Thumbnail:
    uri: str
    width: int
    height: int
    tiny: bool  # enlarged, and shown without smoothing, so that what is shown is what was sent


@dataclass(frozen=True)
class Said:
    """What one provider said of one picture."""

    who: Who
    mark: Mark
    labels: list[tuple[str, str, bool]]  # name, score, and whether it is the first label of the clean picture
    words: str


@dataclass(frozen=True)
class Cell:
    """One picture and all that was said of it. ``words``: what is under a difference, or why there is no picture."""

    title: str
    about: str  # for those who do not see the picture; words and numbers of ours
    thumbnail: Thumbnail | None
    said: list[Said]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One kind of purifier at each of its iterations: one picture and a slider, or side by side where no script runs."""

    name: str
    steps: list[str]  # such as "1 iteration"
    purifiers: list[str]
    start: int = 0  # where the slider stands at first


@dataclass(frozen=True)
class Slot:
    """A column of a strip: one cell, or those of a family that has several iterations."""

    cells: list[Cell | None]
    family: Family | None = None


@dataclass(frozen=True)
class Strip:
    """The pictures of one attack (0: clean), each purifier in the same column in all strips of a photograph."""

    number: int
    title: str
    slots: list[Slot]
    fates: list[tuple[Who, str]]


@dataclass(frozen=True)
class Card:
    """One photograph, as one set of files: providers that were sent other files of it are on a card of their own."""

    number: int
    name: str
    size: str
    truth: str  # the class it was given, in words; may be empty
    whos: list[Who]
    others: list[Who]
    strips: list[Strip]

    @property
    def slots(self) -> int:
        """Columns where a family is behind a slider."""
        return max(len(strip.slots) for strip in self.strips)

    @property
    def columns(self) -> int:
        """Columns where all is side by side."""
        return max(sum(len(slot.cells) for slot in strip.slots) for strip in self.strips)


@dataclass(frozen=True)
class Photograph:
    """A photograph as one set of files: by variant, the hash of what was sent to ``whos``."""

    source: str
    whos: list[Who]
    hashes: dict[tuple[str, str], str]


@dataclass
class Tally:
    """Filled while the page is written; its end says it."""

    missing: int = 0


def names(groups: Sequence[Group]) -> dict[Group, tuple[str, str]]:
    """What each group is called, and, where several are called the same, what tells those apart."""
    naming = tables.Naming(groups)
    alike: dict[str, dict[Group, list[str]]] = {}
    for group in groups:
        first, *more = naming.names(group)
        alike.setdefault(first, {})[group] = more
    found = {}
    for first, members in alike.items():
        differ = [len(set(column)) > 1 for column in zip(*members.values(), strict=True)]
        for group, more in members.items():
            found[group] = (first, " · ".join(compress(more, differ)))
    return found


def families(purifiers: Sequence[str]) -> list[Family]:
    """``ncis/1`` and ``ncis/4`` are one family, of 1 and 4 iterations; the order of each is kept."""
    found: dict[str, list[tuple[str, str]]] = {}
    for purifier in purifiers:
        name, slash, count = purifier.rpartition("/")
        known = slash and count.isdecimal()
        step = f"{count} iteration{'' if count == '1' else 's'}" if known else ""
        found.setdefault(name if known else purifier, []).append((step, purifier))
    return [
        Family(text.plain(name, 40), [text.plain(step, 20) for step, _ in own], [purifier for _, purifier in own])
        for name, own in found.items()
    ]


def class_name(index: int | None) -> str:
    """The name of an ImageNet class; its number where there is no such class."""
    if index is None:
        return ""
    classes = labels.vocabulary().classes
    return classes[index].name if 0 <= index < len(classes) else f"class {index}"


# --- the photographs ---


class Maker:
    """Makes the cards, one when it is asked for. ``truth``: the ImageNet class of a photograph, where it was given one."""

    def __init__(self, groups: Sequence[Answers], files: Files, truth: Mapping[str, int]) -> None:
        called = names([answers.group for answers in groups])
        self.whos = [Who(number, *called[answers.group], answers) for number, answers in enumerate(groups, 1)]
        self.files = files
        self.tally = Tally()
        self.attacks = sorted({attack for answers in groups for attack in answers.attacks}, key=natural)
        variants = {variant for answers in groups for variant in answers.by_variant}
        self.purifiers = sorted({purifier for _, purifier in variants} - {NONE}, key=natural)
        self.truth = truth
        self.sources = self._order()
        self.photographs = [one for source in self.sources for one in self._same_files(source)]
        self.pictures = self._any_picture()

    def _order(self) -> list[str]:
        """Photographs of which a label was lost and came back first, then those lost for good, then the rest; then by id."""
        ids: dict[str, str] = {}
        rank: dict[str, int] = {}
        for who in self.whos:
            for (attack, _), found in who.answers.by_variant.items():
                for source, answer in found.items():
                    ids.setdefault(source, answer.image_id)
                    place = 3 if attack == "clean" else _RANK[marks.fate(who.answers, attack, source)]
                    rank[source] = min(rank.get(source, 3), place)
        return sorted(ids, key=lambda source: (rank[source], natural(ids[source]), source))

    def _any_picture(self) -> bool:
        """Whether any of the pictures that the page is about is at hand."""
        variants = [("clean", NONE), *((attack, NONE) for attack in self.attacks)]
        return any(self.files.pixels(*variant, source) is not None for source in self.sources for variant in variants)

    def cards(self, first: int, end: int | None = None) -> Iterator[Card]:
        """Those of ``photographs[first:end]``; a photograph's number is one more than its place there."""
        for place, photograph in enumerate(self.photographs[first:end], first):
            yield self._card(place + 1, photograph)

    def index(self) -> list[list[object]]:
        """What the filter knows of each photograph: its class (or None), and by attack ("" for none) the fates, "1b 2l"."""
        return [
            [
                self.truth.get(one.source),
                [[number or "", self._tokens(one, attack)] for number, attack in self._of(one)],
            ]
            for one in self.photographs
        ]

    def _of(self, photograph: Photograph) -> list[tuple[int, str]]:
        """The attacks that those on a card were asked about, with their numbers; first 0 and "clean"."""
        asked = [attack for attack in self.attacks if any(attack in who.answers.attacks for who in photograph.whos)]
        return [(0, "clean"), *((self.attacks.index(attack) + 1, attack) for attack in asked)]

    def _tokens(self, photograph: Photograph, attack: str) -> str:
        return " ".join(f"{who.number}{letter}" for who, letter in self._fates(photograph, attack))

    def _fates(self, photograph: Photograph, attack: str) -> list[tuple[Who, str]]:
        if attack == "clean":
            changed = [(who, marks.changed_clean(who.answers, photograph.source)) for who in photograph.whos]
            return [(who, "c" if one else "-") for who, one in changed]
        return [(who, marks.fate(who.answers, attack, photograph.source)) for who in photograph.whos]

    def _same_files(self, source: str) -> list[Photograph]:
        """Who was sent the same files of a photograph: a picture is never shown above what was said of another one."""
        found: list[Photograph] = []
        for who in self.whos:
            variants = who.answers.by_variant.items()
            hashes = {variant: answers[source].sha256 for variant, answers in variants if source in answers}
            if not hashes:
                continue
            for one in found:
                if all(one.hashes.get(variant, sha256) == sha256 for variant, sha256 in hashes.items()):
                    one.whos.append(who)
                    one.hashes.update(hashes)
                    break
            else:
                found.append(Photograph(source, [who], hashes))
        return found

    def _card(self, number: int, photograph: Photograph) -> Card:
        whos, source = photograph.whos, photograph.source
        ids = (found[source].image_id for who in whos for found in who.answers.by_variant.values() if source in found)
        clean = self._pixels(photograph, "clean", NONE)
        attacks = self._of(photograph)
        used = {purifier for who in whos for _, attack in attacks for purifier in who.answers.purifiers(attack)}
        kinds = [
            replace(family, start=_first_back(photograph, [name for _, name in attacks[1:]], family.purifiers))
            for family in families([purifier for purifier in self.purifiers if purifier in used])
        ]
        return Card(
            number,
            text.plain(next(ids), 80) or "(no name)",
            "" if clean is None else f"{clean.shape[1]} × {clean.shape[0]} pixels",
            class_name(self.truth.get(source)),
            whos,
            [who for who in self.whos if who not in whos],
            [self._strip(number, photograph, attack, kinds, clean) for attack in attacks],
        )

    def _strip(
        self,
        card: int,
        photograph: Photograph,
        attack: tuple[int, str],
        kinds: Sequence[Family],
        clean: Pixels | None,
    ) -> Strip:
        number, name = attack
        about = f"Photograph {card}, " + (f"attack {number}" if number else "clean")
        sent = self._pixels(photograph, name, NONE) if number else clean
        slots = [Slot([self._cell(photograph, name, NONE, "adversarial" if number else "clean", about, sent)])]
        for family in kinds:
            cells = []
            for purifier in family.purifiers:
                title, alternative = f"purified: {text.plain(purifier, 40)}", f"{about}, purified"
                pixels = self._pixels(photograph, name, purifier)
                cells.append(self._cell(photograph, name, purifier, title, alternative, pixels))
            several = len(cells) > 1 and any(cells)
            slots.append(Slot(cells, family if several else None))
        if number and self.pictures:
            slots.append(Slot([_difference(about, clean, sent)]))
        return Strip(number, text.plain(name, 40), slots, self._fates(photograph, name))

    def _pixels(self, photograph: Photograph, attack: str, purifier: str) -> Pixels | None:
        """The file that was sent; None where nobody on the card was asked about it."""
        sha256 = photograph.hashes.get((attack, purifier))
        return None if sha256 is None else self.files.pixels(attack, purifier, photograph.source, sha256)

    def _cell(
        self, photograph: Photograph, attack: str, purifier: str, title: str, about: str, pixels: Pixels | None
    ) -> Cell | None:
        if not any((attack, purifier) in who.answers.by_variant for who in photograph.whos):
            return None
        said = [self._said(who, attack, purifier, photograph.source) for who in photograph.whos]
        if pixels is not None:
            return Cell(title, about, _thumbnail(pixels, _QUALITY), said)
        asked = (attack, purifier) in photograph.hashes
        self.tally.missing += asked
        return Cell(title, about, None, said, ("file not at hand",) if asked and self.pictures else ())

    def _said(self, who: Who, attack: str, purifier: str, source: str) -> Said:
        mark = marks.mark(who.answers, attack, purifier, source)
        if mark is marks.NOT_ASKED and self._other_version(who, attack, purifier, source):
            mark = marks.OTHER_VERSION
        reference = who.answers.clean.get(source)
        wanted = metrics.identity(reference[0]) if reference else None
        found = [
            (
                text.plain(one.name, 80) or "(a label without a name)",
                f"{one.score:.2f}",
                metrics.identity(one) == wanted,
            )
            for one in who.answers.labels(attack, purifier, source)[:LABELS]
        ]
        return Said(who, mark, found, marks.said(who.answers, attack, purifier, source))

    def _other_version(self, who: Who, attack: str, purifier: str, source: str) -> bool:
        """Whether only another model version of the same campaign, provider, origin and settings has an answer."""
        return any(
            source in other.answers.by_variant.get((attack, purifier), {})
            and all(getattr(other.answers.group, name) == getattr(who.answers.group, name) for name in GROUP)
            for other in self.whos
        )


def _first_back(photograph: Photograph, attacks: Sequence[str], purifiers: Sequence[str]) -> int:
    """The first of them that brought any label back; 0 where none did."""
    for place, purifier in enumerate(purifiers):
        for attack in attacks:
            if any(
                marks.mark(who.answers, attack, purifier, photograph.source) is marks.BACK for who in photograph.whos
            ):
                return place
    return 0


def _difference(about: str, clean: Pixels | None, adversarial: Pixels | None) -> Cell:
    title, about = f"difference × {AMPLIFY}", f"{about}, difference to the clean picture"
    if clean is None or adversarial is None or clean.shape != adversarial.shape:
        return Cell(title, about, None, [], ("cannot be shown: files not at hand",))
    pixels, words = difference(clean, adversarial)
    return Cell(title, about, _thumbnail(pixels, _NOISE_QUALITY), [], words)


def _thumbnail(pixels: Pixels, quality: int) -> Thumbnail:
    height, width, _ = pixels.shape
    scale = SIDE / max(height, width)
    shown = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(pixels, "RGB")
    if scale < 1:
        image = image.resize(shown, Image.Resampling.LANCZOS)
    # Every browser of the last years reads WebP, and every wheel of Pillow writes it; a Pillow built without can do JPEG.
    form = "WEBP" if features.check("webp") else "JPEG"
    out = BytesIO()
    image.save(out, format=form, quality=quality)
    uri = f"data:image/{form.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"
    return Thumbnail(uri, *shown, tiny=scale >= 2)
