"""index.html and what lies beside it: the blocks of JSON, the files of pictures, the sliders' markup and the summary."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from apibench.errors import ApibenchError
from apibench.report import cards, compare, frames, page, write_report
from apibench.report.picture import Files
from tests.storemaker import StoreMaker
from tests.test_page import (  # noqa: F401 - fixtures
    ATTACK,
    HOSTILE,
    NCIS,
    Node,
    Painter,
    Tree,
    check_harmless,
    groups,
    hostile,
    maker,
    store,
    tree,
)


def write(store: Path, folder: Path) -> list[str]:  # noqa: F811
    found = frames.read(store)
    answers = compare.answers(found)
    return page.write(folder / "index.html", answers, compare.rows(answers), Files(store, found.images), found.truth())


def blocks(text: str) -> dict[str, str]:
    """The JSON of a page by the ids of its elements, as it stands there."""
    return dict(re.findall(r'<script type="application/json" id="([a-z0-9-]+)">(.*?)</script>', text))


@pytest.fixture
def many(maker: StoreMaker) -> Path:  # noqa: F811
    painter = Painter(maker)
    for number in range(page.SHOWN + 3):
        painter.ask(f"{number:02d}", "clean", ["dog"], truth=207)
        painter.ask(f"{number:02d}", ATTACK, ["fox" if number % 2 else "dog"])
    return maker.close()


# --- one file ---


def test_photographs_after_the_first_are_blocks_at_the_end(many: Path, tmp_path: Path) -> None:
    assert write(many, tmp_path / "out") == ["index.html"]
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    root = Tree(text).root
    check_harmless(root, text)
    static = [article.attributes["id"] for article in root.all("article")]
    assert static == [f"p{number}" for number in range(1, page.SHOWN + 1)]
    found = blocks(text)
    later = {name: json.loads(data) for name, data in found.items() if name != "index"}
    assert list(later) == [f"card-{number}" for number in range(page.SHOWN + 1, page.SHOWN + 4)]
    for name, html in later.items():
        (article,) = Tree(html).root.all("article")
        assert article.attributes["id"] == name.replace("card-", "p")
        assert len(list(article.all("img"))) == 3
    index = json.loads(found["index"])
    assert index["files"] == {}
    assert len(index["photographs"]) == page.SHOWN + 3
    # First those of which a label was lost: odd ones.
    assert index["photographs"][0] == [207, [["", "1-"], [1, "1l"]]]
    assert index["photographs"][-1] == [207, [["", "1-"], [1, "1k"]]]
    assert text.index("</main>") < text.index('id="card-'), "what is seen first is read first"


def test_a_class_that_was_not_given_is_not_shown(store: Path, tmp_path: Path) -> None:  # noqa: F811
    root = tree(write_report(store, tmp_path / "out"))
    assert not list(root.all("select", id="pick-class"))
    assert "class:" not in next(root.all("h3")).text


def test_classes_are_named_and_counted(many: Path, tmp_path: Path) -> None:
    root = tree(write_report(many, tmp_path / "out"))
    options = [option.text for option in next(root.all("select", id="pick-class")).all("option")]
    assert options == ["all", f"Golden Retriever ({page.SHOWN + 3})"]
    assert next(root.all("h3")).text.endswith("class: Golden Retriever")
    assert cards.class_name(1000) == "class 1000"


# --- files beside it ---


def test_files_beside_the_page_come_and_go_with_it(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_INLINE", 10)
    out = tmp_path / "out"
    (out / "index_files").mkdir(parents=True)
    (out / "index_files" / "mine.js").write_text("not of a page")
    (out / "index_files" / "00099-0123456789ab.js").write_text("of an earlier page")
    names = write(many, out)
    text = (out / "index.html").read_text(encoding="utf-8")
    root = Tree(text).root
    (policy,) = [meta.attributes["content"] for meta in root.all("meta") if "http-equiv" in meta.attributes]
    assert re.search(r"script-src 'sha256-[^']+' 'strict-dynamic';", policy)
    found = json.loads(blocks(text)["index"])["files"]
    assert names == ["index.html", *found.values()]
    assert list(found) == [str(number) for number in range(page.SHOWN + 1, page.SHOWN + 4)]
    assert {f"index_files/{path.name}" for path in (out / "index_files").iterdir()} == {
        *names[1:],
        "index_files/mine.js",
    }
    for number, name in found.items():
        script = (out / name).read_text(encoding="ascii")
        called = re.fullmatch(r"apibenchCard\((\d+),(.*)\)\n", script)
        assert called
        assert called[1] == number
        (article,) = Tree(json.loads(called[2])).root.all("article")
        assert article.attributes["id"] == f"p{number}"
    # The same bytes again; and none once the page needs none.
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    write(many, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (out / "index_files" / "mine.js").unlink()
    monkeypatch.setattr(page, "MOST_INLINE", 10**6)
    write(many, out)
    assert [path.name for path in out.iterdir()] == ["index.html"]


def test_a_page_that_breaks_off_leaves_the_old_ones_files(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MOST_INLINE", 10)
    out = tmp_path / "out"
    write(many, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    real = page.Beside.write

    def full(self: page.Beside, number: int, html: str) -> None:
        if number > page.SHOWN + 2:
            raise OSError(28, "No space left on device")
        real(self, number, html + " ")

    monkeypatch.setattr(page.Beside, "write", full)
    with pytest.raises(ApibenchError, match="No space left"):
        write(many, out)
    assert {path: path.read_bytes() for path in before} == before


def test_the_report_names_the_files_of_the_page(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_INLINE", 10)
    write_report(many, tmp_path / "out")
    about = json.loads((tmp_path / "out" / "provenance.json").read_text(encoding="utf-8"))
    assert len([name for name in about["files"] if name.startswith("index_files/")]) == 3


# --- hostile text ---


@pytest.mark.parametrize("most", [0, 10**6])
def test_hostile_text_stays_text_in_json(
    hostile: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
) -> None:
    monkeypatch.setattr(page, "SHOWN", 1)
    monkeypatch.setattr(page, "MOST_INLINE", most)
    names = write(hostile, tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    check_harmless(Tree(text).root, text)
    found = [data for name, data in blocks(text).items() if name != "index"]
    scripts = [(tmp_path / "out" / name).read_text(encoding="ascii") for name in names[1:]]
    found += [script[len("apibenchCard(") :].partition(",")[2].removesuffix(")\n") for script in scripts]
    assert len(found) == len(HOSTILE) - 1
    for data in found:
        assert data.isascii()
        assert not set("<>&\u2028\u2029\n") & set(data)
        root = Tree(json.loads(data)).root
        assert not {node.tag for node in root.all()} & {"script", "svg", "base", "style", "link", "title"}
        for node in root.all():
            assert not [name for name in node.attributes if name.startswith("on")]
            for name in set(node.attributes) - {"src", "alt"}:
                assert "evil" not in node.attributes[name]
                assert "owned" not in node.attributes[name]


def test_json_in_a_script_ends_nothing() -> None:
    harm = "</script><script>alert(1)</script><!--<script> ]]> &lt; \u2028 \u2029 \ud800 é"
    found = page._json(harm)
    assert json.loads(found) == harm
    assert found.isascii()
    assert not set("<>&") & set(found)


# --- sliders ---


def test_iterations_of_one_purifier_are_one_column_with_a_slider(maker: StoreMaker, tmp_path: Path) -> None:  # noqa: F811
    painter = Painter(maker)
    purifiers = ["jpeg:50/1", "ncis/1", "ncis/2", "ncis/10", "odd/x", "odd/y"]
    for attack in ("clean", ATTACK):
        painter.ask("A", attack, ["dog" if attack == "clean" else "fox"])
        for purifier in purifiers:
            painter.ask("A", f"{attack}+{purifier}", ["dog" if purifier in ("ncis/2", "ncis/10") else "fox"])
    root = tree(write_report(maker.close(), tmp_path / "out"))
    families = list(root.all("div", cls="family"))
    assert len(families) == 2
    for family in families:
        slider = next(family.all("input"))
        assert slider.attributes["type"] == "range"
        assert slider.attributes["max"] == "2"
        assert slider.attributes["data-steps"] == "1 iteration|2 iterations|10 iterations"
        # It stands where the label first came back.
        assert (slider.attributes["value"], next(family.all("output")).text) == ("1", "2 iterations")
        assert ["other" in cell.attributes["class"] for cell in family.all("figure")] == [True, False, True]
        titles = [next(cell.all("figcaption")).text for cell in family.all("figure")]
        assert titles == ["purified: ncis/1", "purified: ncis/2", "purified: ncis/10"]
    style = next(root.all("article")).attributes["style"]
    assert style == "--n:1;--c:8;--s:6"


def test_the_clean_label_is_marked_wherever_it_stands(store: Path, tmp_path: Path) -> None:  # noqa: F811
    root = tree(write_report(store, tmp_path / "out"))
    card = next(card for card in root.all("article") if "image-B" in next(card.all("h3")).text)
    lists = [[(item.text.split()[0], item.has("cls", "own")) for item in one.all("li")] for one in card.all("ol")]
    assert [("fox", False), ("dog", True)] in lists
    assert all(own is (name in ("dog", "hound")) for one in lists for name, own in one)


# --- the summary ---


def summary(root: Node) -> list[str]:
    return [item.text for item in next(root.all("section", cls="short")).all("li")]


def test_the_summary_says_the_least_and_the_most_of_all_providers(store: Path, tmp_path: Path) -> None:  # noqa: F811
    (words,) = summary(tree(write_report(store, tmp_path / "out")))
    acme, zeta = (one.row(ATTACK, "ncis/2") for one in groups(store))
    assert acme.attacked
    assert zeta.attacked
    lost, of = acme.attacked.top1.n - acme.attacked.top1.k, acme.attacked.top1.n
    assert f"0 of {zeta.attacked.top1.n} photographs (0 %) at the provider that withstood it best" in words
    assert f"of {lost} of {of} ({100 * lost / of:.0f} %) at the one that did worst" in words


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (
            (3, 3),
            "2 of 9 (22 %) on balance at each provider (not significant); it changes 1 of 10 clean answers (10 %).",
        ),
        (
            (3, 5),
            "2 of 9 (22 %) to 4 of 9 (44 %) on balance, by provider (not significant); it changes 1 of 10 clean answers (10 %).",
        ),
        (
            (3, 10),
            "to 9 of 9 (100 %) on balance, by provider (significant at 1 of them); it changes 1 of 10 clean answers (10 %).",
        ),
        (
            (10, 10),
            "9 of 9 (100 %) on balance at each provider (significant); it changes 1 of 10 clean answers (10 %).",
        ),
        (
            (0, 3),
            "−1 of 9 (−11 %) to 2 of 9 (22 %) on balance, by provider (not significant); it changes 1 of 10 clean "
            "answers (10 %).",
        ),
        ((1, 1), "No purifier gave any back on balance."),
        ((0, 1), "No purifier gave any back on balance."),
    ],
)
def test_the_summary_adds_no_providers_up(
    maker: StoreMaker,  # noqa: F811
    tmp_path: Path,
    kept: tuple[int, int],
    says: str,
) -> None:
    """They answer about the same photographs: one network behind two of them would count twice."""
    for provider, keeps in zip(("acme", "zeta"), kept, strict=True):
        for number in range(10):
            maker.ask(str(number), "clean", ["dog"], provider=provider)
            maker.ask(str(number), ATTACK, ["dog" if number < 1 else "fox"], provider=provider)
            maker.ask(str(number), NCIS, ["dog" if number < keeps else "fox"], provider=provider)
            maker.ask(str(number), "clean+ncis/2", ["dog" if number else "fox"], provider=provider)
    (words,) = summary(tree(write_report(maker.close(), tmp_path / "out")))
    assert words.endswith(says)


def test_the_summary_names_the_purifier_that_gave_back_most(maker: StoreMaker, tmp_path: Path) -> None:  # noqa: F811
    for number in range(10):
        maker.ask(str(number), "clean", ["dog"])
        maker.ask(str(number), ATTACK, ["dog" if number < 2 else "fox"])
        maker.ask(str(number), f"{ATTACK}+jpeg:50/1", ["dog" if number < 3 else "fox"])
        maker.ask(str(number), NCIS, ["dog" if number < 6 else "fox"])
        maker.ask(str(number), "clean+ncis/2", ["dog" if number else "fox"])
    assert summary(tree(write_report(maker.close(), tmp_path / "out"))) == [
        f"{ATTACK} changed the first label of 8 of 10 photographs (80 %). Of these, ncis/2 gave back the most: 4 of 8 (50 %) "
        "on balance (not significant); it changes 1 of 10 clean answers (10 %)."
    ]


def test_charts_that_are_too_many_are_cut_by_attack_and_not_by_provider(maker: StoreMaker, tmp_path: Path) -> None:  # noqa: F811
    for provider in ("acme", "beta", "zeta"):
        maker.ask("A", "clean", ["dog"], provider=provider)
        for epsilon in range(1, 7):
            maker.ask("A", f"mi/eps{epsilon}", ["fox"], provider=provider)
    root = tree(write_report(maker.close(), tmp_path / "out"))
    shown = [figure.text for figure in root.all("figure", cls="chart")]
    assert len(shown) == 12
    assert all(any(provider in one for one in shown) for provider in ("acme", "beta", "zeta"))
    assert "6 more are in the table only." in root.text
