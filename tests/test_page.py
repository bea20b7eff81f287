"""index.html: what it says, that it is right, and that nothing in a store can make it do anything else."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apibench.errors import ApibenchError
from apibench.imageset import Pixels, encode_png
from apibench.query.contract import Label
from apibench.report import ReportFiles, cards, compare, frames, marks, page, write_report
from apibench.report.picture import Files
from tests.storemaker import StoreMaker

ATTACK = "mi-di/eps16"
NCIS = ATTACK + "+ncis/2"
VOID = {"meta", "img", "br", "input", "link", "hr"}


# --- a page as a tree ---


@dataclass
class Node:
    tag: str
    attributes: dict[str, str]
    children: list[Node | str] = field(default_factory=list)

    def all(self, tag: str = "", **attributes: str) -> Iterator[Node]:
        """Every node below with that tag and, where given, that word in its class or that value of another attribute."""
        for child in self.children:
            if isinstance(child, Node):
                if (not tag or child.tag == tag) and all(child.has(name, value) for name, value in attributes.items()):
                    yield child
                yield from child.all(tag, **attributes)

    def has(self, name: str, value: str) -> bool:
        if name == "cls":
            return value in self.attributes.get("class", "").split()
        return self.attributes.get(name.replace("_", "-")) == value

    @property
    def text(self) -> str:
        return " ".join("".join(self._words()).split())

    def _words(self) -> Iterator[str]:
        for child in self.children:
            if isinstance(child, str):
                yield child
            else:
                yield from child._words()


class Tree(HTMLParser):
    """Fails where a tag is closed that is not the open one: text from outside has then become markup."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert len(self.open) == 1, [node.tag for node in self.open]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attributes}) == len(attributes)
        node = Node(tag, {name: value or "" for name, value in attributes})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def tree(files: ReportFiles) -> Node:
    return Tree(files.page.read_text(encoding="utf-8")).root


def words(root: Node) -> dict[tuple[str, str, int, str], tuple[str, str]]:
    """By image id, attack, column and provider: the mark's word, and all that is said besides."""
    found = {}
    for card in root.all("article"):
        name = next(iter(next(card.all("h3")).all("bdi"))).text
        for strip in card.all("section"):
            cells = list(strip.all(cls="cell"))
            for column, cell in enumerate(cells):
                for said in cell.all("div", cls="said"):
                    mark = next(said.all("span", cls="mark")).text
                    about = " ".join(part.text for part in [*said.all("li"), *said.all("p", cls="words")])
                    who = next(said.all("p", cls="who")).text
                    found[name, strip.attributes["data-attack"], column, who] = (mark, about)
    return found


# --- stores ---


@pytest.fixture
def maker(tmp_path: Path) -> StoreMaker:
    return StoreMaker(tmp_path / "store.sqlite")


class Painter:
    """Writes a small PNG for every image it asks about."""

    def __init__(self, maker: StoreMaker, folder: str = "set") -> None:
        self.maker, self.folder, self.count = maker, folder, 0
        (maker.path.parent / folder).mkdir()

    def ask(self, source: str, variant: str, said: object, *, level: int | None = None, **about: object) -> str:
        number = hashlib.sha256(f"{source} {variant}".encode()).hexdigest()[:12]
        pixels: Pixels = np.full((12, 16, 3), level if level is not None else int(number[:2], 16), np.uint8)
        pixels[0, 0] = [int(number[i : i + 2], 16) for i in (2, 4, 6)]
        data = encode_png(pixels)
        (self.maker.path.parent / self.folder / f"{number}.png").write_bytes(data)
        where = {"folder": self.folder, "file": f"{number}.png", "data": data}
        return self.maker.ask(source, variant, said, **where, **about)  # type: ignore[arg-type]


# By photograph: what acme says of the clean, the purified clean, the attacked, and the attacked and purified picture.
OUTCOMES: dict[str, tuple[object, object, object, object]] = {
    "A": (["dog"], ["dog"], ["dog"], ["dog"]),
    "B": (["dog"], ["dog"], ["fox", "dog"], ["dog"]),
    "C": (["dog"], ["fox"], ["fox"], ["cat"]),
    "D": (["dog"], "rejected", "rejected", ["dog"]),
    "E": (["dog"], "failed", "failed", "failed"),
    "F": (["dog"], ["dog"], ["dog"], []),
    "G": ([], ["dog"], ["dog"], "rejected"),
    "H": ("failed", ["dog"], ["dog"], ["dog"]),
    "I": (["dog"], None, ["dog"], None),
    "J": (["dog"], ["dog"], "failed", ["fox"]),
}
VARIANTS = ("clean", "clean+ncis/2", ATTACK, NCIS)
MARKS = {
    "A": ("clean: the reference", "kept", "kept", "kept"),
    "B": ("clean: the reference", "kept", "lost", "came back"),
    "C": ("clean: the reference", "changed by the purifier", "lost", "still lost"),
    "D": ("clean: the reference", "changed by the purifier", "lost", "came back"),
    "E": ("clean: the reference", "failed, not counted", "failed, not counted", "failed, not counted"),
    "F": ("clean: the reference", "kept", "kept", "lost when purified"),
    "G": ("no label to compare", "no clean label", "no clean label", "no clean label"),
    "H": ("failed, not counted", "no clean label", "no clean label", "no clean label"),
    "I": ("clean: the reference", "not asked", "kept", "not asked"),
    "J": ("clean: the reference", "kept", "failed, not counted", "lost"),
}


@pytest.fixture
def store(maker: StoreMaker) -> Path:
    """Every kind of outcome at one provider; at a second one, all labels kept."""
    painter = Painter(maker)
    for source, outcomes in OUTCOMES.items():
        for variant, said in zip(VARIANTS, outcomes, strict=True):
            if said is not None:
                painter.ask(source, variant, said)
            painter.ask(source, variant, ["hound"], provider="zeta", version="emulated/net-b")
    return maker.close()


def groups(store: Path) -> list[compare.Answers]:
    return compare.answers(frames.read(store))


# --- the marks ---


def test_every_mark_is_the_one_of_its_outcome(store: Path, tmp_path: Path) -> None:
    found = words(tree(write_report(store, tmp_path / "out")))
    places = [("", 0), ("", 1), ("1", 0), ("1", 1)]
    for source, expected in MARKS.items():
        shown = [found[f"image-{source}", attack, column, "acme (emulated)"] for attack, column in places]
        assert tuple(mark.split(" ", 1)[1] for mark, _ in shown) == expected, source
        other = [found[f"image-{source}", attack, column, "zeta (emulated)"][0] for attack, column in places]
        assert other == ["• clean: the reference", "= kept", "= kept", "= kept"]
    assert found["image-B", "1", 0, "acme (emulated)"] == ("✕ lost", "fox 0.90 dog 0.80")
    assert found["image-D", "1", 0, "acme (emulated)"][1] == "refused, which counts as another label: SomeException"
    assert found["image-G", "1", 1, "acme (emulated)"][1] == "refused: SomeException"
    assert found["image-F", "1", 1, "acme (emulated)"] == ("≠ lost when purified", "answered without a label")
    assert found["image-E", "1", 0, "acme (emulated)"] == ("? failed, not counted", "failed: transient SomeException")


def test_marks_agree_with_what_is_counted(store: Path) -> None:
    same, other = {marks.KEPT, marks.BACK}, {marks.LOST, marks.STILL, marks.LOST_PURIFIED, marks.CHANGED}
    acme, zeta = groups(store)
    seen = set()
    for answers in (acme, zeta):
        for (attack, purifier), source in [(v, s) for v in answers.by_variant for s in OUTCOMES]:
            if (attack, purifier) == ("clean", "none"):
                continue
            mark, flag = marks.mark(answers, attack, purifier, source), answers.flag(attack, purifier, source)
            assert (mark in same, mark in other) == (flag is True, flag is False), (source, attack, purifier)
            seen.add(mark)
    assert seen >= same | other | {marks.FAILED, marks.NO_REFERENCE, marks.NOT_ASKED}
    # "Came back" is what the table counts as won.
    row = acme.row(ATTACK, "ncis/2")
    assert row.paired is not None
    back = [s for s in OUTCOMES if marks.mark(acme, ATTACK, "ncis/2", s) is marks.BACK]
    assert len(back) == row.paired.after_only == 2
    assert [s for s in OUTCOMES if marks.fate(acme, ATTACK, s) == "b"] == back


def test_lost_and_came_back_is_first_then_lost_then_the_rest(store: Path, tmp_path: Path) -> None:
    heads = [next(card.all("h3")).text for card in tree(write_report(store, tmp_path / "out")).all("article")]
    assert [head.split()[1].removeprefix("image-") for head in heads] == list("BDCAEFGHIJ")
    assert heads[0].endswith("16 × 12 pixels")


def test_the_word_is_there_without_the_colour(store: Path, tmp_path: Path) -> None:
    for mark in tree(write_report(store, tmp_path / "out")).all("span", cls="mark"):
        sign, word = mark.text.split(" ", 1)
        assert sign in "•–=✕↺≠?"
        assert word


def test_another_model_version_is_not_called_not_asked(maker: StoreMaker, tmp_path: Path) -> None:
    maker.ask("A", "clean", ["dog"], version="1.0")
    maker.ask("A", ATTACK, ["dog"], version="2.0")
    maker.ask("B", "clean", ["dog"], version="1.0")
    maker.ask("B", ATTACK, ["fox"], version="1.0")
    found = words(tree(write_report(maker.close(), tmp_path / "out")))
    assert found["image-A", "1", 0, "acme (emulated) 1.0"] == ("– answered by another model version", "")
    assert found["image-A", "1", 0, "acme (emulated) 2.0"] == ("– no clean label", "dog 0.90")
    assert found["image-B", "1", 0, "acme (emulated) 1.0"] == ("✕ lost", "fox 0.90")


def test_campaigns_and_settings_are_told_apart(maker: StoreMaker, tmp_path: Path) -> None:
    for campaign, settings in (("may", "{}"), ("june", "{}"), ("june", '{"MaxLabels": 5}')):
        maker.ask("A", "clean", ["dog"], campaign=campaign, settings=settings)
        maker.ask("A", ATTACK, [campaign], campaign=campaign, settings=settings)
    root = tree(write_report(maker.close(), tmp_path / "out"))
    assert {who for *_, who in words(root)} == {
        "acme (emulated) may · {}",
        "acme (emulated) june · {}",
        'acme (emulated) june · {"MaxLabels": 5}',
    }
    assert "campaigns june, may" in next(root.all("p", cls="eyebrow")).text


# --- the numbers ---


def unescaped(line: str) -> list[str]:
    return [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in line.strip("|").split(" | ")]


def rows_of(table: Node) -> list[list[str]]:
    """The cells of every row, those that span several rows in each of them."""
    rows: list[list[str]] = []
    reaching: dict[int, tuple[int, str]] = {}  # column: how many more rows, and what is in it
    for row in table.all("tr"):
        own = [cell for cell in row.children if isinstance(cell, Node)]
        cells: list[str] = []
        while own or len(cells) in reaching:
            left, text = reaching.pop(len(cells), (0, ""))
            if not left:
                cell = own.pop(0)
                left, text = int(cell.attributes.get("rowspan", "1")), cell.text
            if left > 1:
                reaching[len(cells)] = (left - 1, text)
            cells.append(text)
        rows.append(cells)
    assert not reaching
    return rows


def test_the_table_is_that_of_the_report(store: Path, tmp_path: Path) -> None:
    files = write_report(store, tmp_path / "out")
    lines = files.report.read_text(encoding="utf-8").split("\n\n")[1].splitlines()
    table = next(tree(files).all("table", id="table"))
    shown = rows_of(table)
    assert shown == [unescaped(line) for line in (lines[0], *lines[2:])]
    with files.table.open(encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    assert len(records) == len(shown) - 1 == 4
    for record, row in zip(records, shown[1:], strict=True):
        cells = dict(zip(shown[0], row, strict=True))
        assert cells["Attacked, %"].endswith(f"{record['attacked_top1_k']}/{record['attacked_top1_n']}")
        if record["purifier"] != "none":
            assert cells["Purified, %"].endswith(f"{record['purified_top1_k']}/{record['purified_top1_n']}")
            assert cells["Purified, %"].startswith(f"{100 * float(record['purified_top1']):.1f} ")
    # What the columns are is said in the same words.
    caption = files.main_table.split("\n\n")[2]
    (note,) = [note for note in tree(files).all("p", cls="note") if note.text.startswith("Agreement is")]
    assert note.text == caption.replace("*", "")
    assert [em.text for em in note.all("em")] == ["Clean", "Attacked", "Purified", "Recovery", "Cost"]


def test_charts_say_what_the_table_says(store: Path, tmp_path: Path) -> None:
    acme, zeta = tree(write_report(store, tmp_path / "out")).all("figure", cls="chart")
    row = groups(store)[0].row(ATTACK, "ncis/2")
    assert row.attacked is not None
    assert row.recovery is not None
    taken = row.attacked.top1.n - row.attacked.top1.k
    assert f"The attack took {taken} of {row.attacked.top1.n} first labels." in acme.text
    assert f"ncis/2 gave back: {row.recovery.numerator} of {row.recovery.denominator} on balance" in acme.text
    assert row.cost is not None
    assert f"it changes {row.cost.k} of {row.cost.n} clean pictures" in acme.text
    assert [bar.attributes["style"] for bar in zeta.all("i")] == ["width:100.00%"] * 2
    assert "The attack took 0 of 10 first labels." in zeta.text


@pytest.mark.parametrize(
    ("origin", "version", "says", "loud"),
    [
        ("emulated", "emulated/net-a", "EMULATED: answered by net-a, not by a vendor.", True),
        ("custom", "3.0", "CUSTOM: answered by an endpoint that is not the vendor's own.", True),
        ("live", "3.0", "Live: answered by the vendors' own hosts.", False),
    ],
)
def test_origin_is_said(maker: StoreMaker, tmp_path: Path, origin: str, version: str, says: str, loud: bool) -> None:
    maker.ask("A", "clean", ["dog"], origin=origin, version=version)
    maker.ask("A", ATTACK, ["dog"], origin=origin, version=version)
    header = next(tree(write_report(maker.close(), tmp_path / "out")).all("header"))
    (banner,) = header.all("p", cls="origin")
    assert says in banner.text
    assert banner.has("cls", "loud") is loud


def test_nothing_to_compare(maker: StoreMaker, tmp_path: Path) -> None:
    maker.ask("A", "clean", ["dog"])
    root = tree(write_report(maker.close(), tmp_path / "out"))
    assert "Nothing can be compared yet" in root.text
    assert words(root) == {("image-A", "", 0, "acme (emulated)"): ("• clean: the reference", "dog 0.90")}


# --- the pictures ---


def picture(node: Node) -> Pixels:
    kind, data = node.attributes["src"].split(",")
    assert kind in ("data:image/webp;base64", "data:image/jpeg;base64")
    with Image.open(BytesIO(base64.b64decode(data))) as image:
        assert max(image.size) <= cards.SIDE
        return np.asarray(image.convert("RGB"))


def test_each_picture_is_of_its_own_file(maker: StoreMaker, tmp_path: Path) -> None:
    painter = Painter(maker)
    for variant, level in {"clean": 100, "clean+ncis/2": 50, ATTACK: 105, NCIS: 200}.items():
        painter.ask("A", variant, ["dog"], level=level)
    root = tree(write_report(maker.close(), tmp_path / "out"))
    shown = [(next(cell.all("figcaption")).text, next(cell.all("img"))) for cell in root.all("figure", cls="cell")]
    assert [title for title, _ in shown] == [
        *("clean", "purified: ncis/2"),
        *("adversarial", "purified: ncis/2", "difference × 10"),
    ]
    # Difference: 128 + 10 × 5.
    levels = [int(picture(image)[6, 8].mean()) for _, image in shown]
    assert levels == pytest.approx([100, 50, 105, 200, 178], abs=3)
    for _, image in shown:
        assert image.has("loading", "lazy")
        assert image.has("decoding", "async")
        assert (image.attributes["width"], image.attributes["height"]) == ("224", "168")
        assert image.attributes["alt"].startswith("Photograph 1, ")


def test_large_pictures_are_shrunk() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 900, 3), dtype=np.uint8)
    found = cards._thumbnail(noise, 80)
    assert (found.width, found.height, found.tiny) == (224, 149, False)
    assert len(found.uri) < 80_000


@pytest.mark.parametrize("harm", ["gone", "changed", "not an image"])
def test_without_files_there_are_labels_only(store: Path, tmp_path: Path, harm: str) -> None:
    before = words(tree(write_report(store, tmp_path / "out")))
    for path in (tmp_path / "set").glob("*.png"):
        path.unlink() if harm == "gone" else path.write_bytes(
            encode_png(np.zeros((9, 9, 3), np.uint8)) if harm == "changed" else b"text"
        )
    root = tree(write_report(store, tmp_path / "out"))
    assert not list(root.all("img"))
    assert "The image files are not at hand" in root.text
    assert words(root) == before


def test_one_missing_file_is_said_in_its_place(store: Path, tmp_path: Path) -> None:
    root = tree(write_report(store, tmp_path / "out"))
    number = hashlib.sha256(f"B {NCIS}".encode()).hexdigest()[:12]
    (tmp_path / "set" / f"{number}.png").unlink()
    found = tree(write_report(store, tmp_path / "out"))
    assert len(list(found.all("img"))) == len(list(root.all("img"))) - 1
    (cell,) = [cell for cell in found.all("figure", cls="cell") if "file not at hand" in cell.text]
    assert "came back" in cell.text
    assert "1 picture is not at hand" in found.text
    assert "The image files are not at hand" not in found.text


def test_what_was_said_of_one_file_never_stands_under_another(maker: StoreMaker, tmp_path: Path) -> None:
    # Two campaigns attacked the same photograph anew; the clean file is the same.
    for campaign, level in (("a", 10), ("b", 240)):
        painter = Painter(maker, campaign)
        painter.ask("A", "clean", ["dog"], campaign=campaign, level=100)
        painter.ask("A", ATTACK, [f"said in {campaign}"], campaign=campaign, level=level)
    shown = {}
    for card in tree(write_report(maker.close(), tmp_path / "out")).all("article"):
        adversarial = next(cell for cell in card.all("figure") if "adversarial" in cell.text)
        (said,) = adversarial.all("li")
        shown[said.text] = int(picture(next(adversarial.all("img")))[6, 8].mean())
        assert "Not asked about these files" in card.text
    assert shown == pytest.approx({"said in a 0.90": 10, "said in b 0.90": 240}, abs=3)


def test_files_are_never_outside_their_folder(maker: StoreMaker, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    data = encode_png(np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "secret.png").write_bytes(data)
    maker.ask("A", "clean", ["dog"], file="../secret.png", data=data)
    assert not list(tree(write_report(maker.close(), tmp_path / "out")).all("img"))


# --- the file ---


def test_the_same_store_gives_the_same_bytes(store: Path, tmp_path: Path) -> None:
    one, two = (write_report(store, tmp_path / name).page.read_bytes() for name in ("one", "two"))
    assert one == two
    assert str(tmp_path).encode() not in one
    assert not list((tmp_path / "one").glob(".*"))


def test_one_photograph_at_a_time(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = frames.read(store)
    answers = compare.answers(found)
    made, real = [], cards.Maker._card
    monkeypatch.setattr(cards.Maker, "_card", lambda *about: made.append(1) or real(*about))
    behind = []

    def look(path: Path, pieces: Iterator[bytes]) -> None:
        written = 0
        for piece in pieces:
            written += piece.count(b"<article")
            behind.append(len(made) - written)

    monkeypatch.setattr(page, "write_pieces", look)
    page.write(tmp_path / "x.html", answers, compare.rows(answers), Files(store, found.images))
    assert len(made) == len(OUTCOMES)
    assert max(behind) <= 1
    assert behind[-1] == 0


def test_a_page_that_breaks_off_leaves_the_old_one(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write_report(store, tmp_path / "out").page
    before = old.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cards, "_thumbnail", full)
    with pytest.raises(ApibenchError, match=r"index\.html: cannot be written: No space left"):
        write_report(store, tmp_path / "out")
    assert old.read_bytes() == before
    assert not list((tmp_path / "out").glob(".*"))


# --- hostile text ---

OWN = "document.body.dataset.owned=1"
HOSTILE = [
    f"<script>{OWN}</script>",
    f'"><img src=x onerror="{OWN}">',
    f"'><svg onload='{OWN}'>",
    f"</style><script>{OWN}</script>",
    f"</script><script>{OWN}</script>",
    f"</title></option></select><script>{OWN}</script>",
    "<!-- <base href=https://evil.example> {{ 7*7 }} {% for x in y %} &lt;b&gt;",
    "\x1b[31mred\u202egnp.exe\u2066 \u0000 \ud800".replace("\ud800", ""),
    "javascript:alert(1) url(https://evil.example/x) @import 'https://evil.example'",
]


@pytest.fixture
def hostile(maker: StoreMaker) -> Path:
    painter = Painter(maker)
    for number, text in enumerate(HOSTILE):
        about = {"campaign": text, "provider": text, "settings": text, "version": f"emulated/{text}"}
        attack = f"{text.replace('+', '')}/eps{number}"
        painter.ask(text, "clean", [Label(text, 0.5), Label(text, 0.4)], **about)
        painter.ask(text, f"clean+{text}", [text[::-1]], **about)
        painter.ask(text, attack, "rejected", **about)
        painter.ask(text, f"{attack}+{text}", [text], **about)
    return maker.close()


def check_harmless(root: Node, text: str) -> None:
    """What may be on a page, whatever the store holds."""
    *blocks, script = root.all("script")
    assert not script.attributes
    assert script.text == " ".join((Path(page.__file__).parent / "page.js").read_text(encoding="utf-8").split())
    for block in blocks:
        assert block.attributes["type"] == "application/json"
        assert block.text.isascii()
        assert not set("<>&") & set(block.text)
    (style,) = root.all("style")
    assert "@import" not in style.text
    assert "url(" not in style.text
    assert not {node.tag for node in root.all()} & {
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "svg",
        "audio",
        "video",
    }
    for node in root.all():
        assert not [name for name in node.attributes if name.startswith("on") or name in ("srcset", "action", "ping")]
        assert node.attributes.get("src", "data:image/").startswith("data:image/")
        assert node.attributes.get("href", "#").startswith("#")
        for name in set(node.attributes) - {"content", "src", "alt"}:
            assert "evil" not in node.attributes[name]
            assert "owned" not in node.attributes[name]
    ids = [node.attributes["id"] for node in root.all() if "id" in node.attributes]
    assert len(set(ids)) == len(ids)
    assert text.isprintable() or {c for c in text if not c.isprintable()} == {"\n"}


def test_hostile_text_stays_text(hostile: Path, tmp_path: Path) -> None:
    files = write_report(hostile, tmp_path / "out")
    text = files.page.read_text(encoding="utf-8")
    root = Tree(text).root
    check_harmless(root, text)
    assert len(list(root.all("article"))) == len(HOSTILE)
    # It can still be read.
    assert HOSTILE[0] in [item.text.rsplit(" ", 1)[0] for item in root.all("li")]
    assert "{{ 7*7 }}" in root.text
    assert HOSTILE[0] in next(root.all("title")).text


def test_the_policy_allows_our_script_and_nothing_else(store: Path, tmp_path: Path) -> None:
    text = write_report(store, tmp_path / "out").page.read_text(encoding="utf-8")
    root = Tree(text).root
    check_harmless(root, text)
    policies = [meta.attributes["content"] for meta in root.all("meta") if "http-equiv" in meta.attributes]
    script = text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policies == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    ]
    assert "http://" not in text
    assert "https://" not in text
    # Without a script there is no bar that does nothing.
    assert "hidden" in next(root.all("form")).attributes
