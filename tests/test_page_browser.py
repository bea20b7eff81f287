"""index.html in a real browser: sorted, filtered and leafed through by mouse and by keyboard alone, without a network."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apibench.report import cards, compare, frames, marks, page
from apibench.report.picture import Files
from tests.chromium import PROGRAM, Tab, browser
from tests.storemaker import StoreMaker
from tests.test_page import HOSTILE, Painter, hostile, maker  # noqa: F401 - fixtures

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium")

PHOTOGRAPHS = 25
ATTACKS = ("mi-di/eps8", "mi-di/eps16")
PURIFIERS = ("gaussian/1", "gaussian/2", "gaussian/4", "jpeg:50/1")
VENDORS = ("acme", "zeta")
CLASSES = (207, 8)  # of even and of odd photographs: Golden Retriever and Hen


def said(number: int, vendor: str, variant: str) -> Any:
    """Acme: three in five photographs lost, of which one comes back after 2 iterations; zeta keeps all but the strongest."""
    attack, _, purifier = variant.partition("+")
    if attack == "clean":
        return ["fox"] if purifier == "gaussian/4" and number % 7 == 0 else ["dog"]
    if vendor == "zeta":
        return ["fox"] if attack == "mi-di/eps16" and number < 3 else ["dog"]
    if number % 5 < 2:
        return ["dog"]
    if number == 3:
        return "failed"
    came_back = number % 5 == 2 and purifier in ("gaussian/2", "gaussian/4")
    return ["dog", "wolf"] if came_back else ["wolf", "dog"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    writer = StoreMaker(folder / "store.sqlite")
    painter = Painter(writer)
    for number in range(PHOTOGRAPHS):
        for attack in ("clean", *ATTACKS):
            for variant in (attack, *(f"{attack}+{purifier}" for purifier in PURIFIERS)):
                for vendor in VENDORS:
                    answer = said(number, vendor, variant)
                    painter.ask(f"{number:02d}", variant, answer, provider=vendor, truth=CLASSES[number % 2])
    return writer.close()


def written(store: Path, folder: Path) -> Path:
    """The page alone, without the rest of a report."""
    found = frames.read(store)
    groups = compare.answers(found)
    page.write(folder / "index.html", groups, compare.rows(groups), Files(store, found.images), found.truth())
    return folder / "index.html"


@pytest.fixture(scope="module")
def one_file(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(store, tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def several_files(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "MOST_INLINE", 100)
        return written(store, tmp_path_factory.mktemp("several"))


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("browser") / "profile") as tab:
        yield tab


@pytest.fixture
def tab(window: Tab) -> Iterator[Tab]:
    """No page may write on the console, and none may ask for anything but itself and what is beside it."""
    window.size(1280, 900)
    window.complaints.clear()
    window.requests.clear()
    yield window
    assert window.complaints == []
    assert {address.partition(":")[0] for address in window.requests} <= {"file", "data"}


def shown(tab: Tab) -> list[str]:
    """The numbers in the names of the photographs on the screen, in order."""
    names = tab.run(
        "[...document.querySelectorAll('.card')].filter(c => c.checkVisibility()).map(c => c.querySelector('h3 bdi').textContent)"
    )
    return [name.removeprefix("image-") for name in names]


def choose(tab: Tab, **values: str) -> None:
    """Set filters, all others to what shows all, and wait for the photographs."""
    before = tab.run("document.body.dataset.shown")
    tab.run(f"""(() => {{
        const form = document.getElementById("filters"), values = {values};
        for (const pick of form.querySelectorAll("select")) pick.value = values[pick.id.slice(5)] ?? "";
        form.dispatchEvent(new Event("change"));
    }})()""")
    tab.wait(f"document.body.dataset.shown !== '{before}'")


def count(tab: Tab) -> str:
    found: str = tab.run("document.getElementById('count').textContent")
    return found


def column(tab: Tab, number: int) -> list[str]:
    """The cells of the table's rows that are shown."""
    found: list[str] = tab.run(
        f"[...document.querySelectorAll('#table tbody tr')].filter(r => !r.hidden).map(r => r.cells[{number}].textContent)"
    )
    return found


# --- the table ---


def test_the_table_is_sorted_by_its_heads(tab: Tab, one_file: Path) -> None:
    tab.open(one_file)
    heads = tab.run("[...document.querySelectorAll('#table thead th')].map(h => h.textContent)")
    purified = heads.index("Purified, %")
    before = [column(tab, place) for place in range(len(heads))]
    numbers = {"ascending": sorted, "descending": lambda values: sorted(values, reverse=True)}
    for direction in ("descending", "ascending"):
        tab.click(f"#table th:nth-child({purified + 1}) button")
        assert tab.run(f"document.querySelectorAll('#table th')[{purified}].ariaSort") == direction
        cells = column(tab, purified)
        known = [float(cell.split(" ")[0]) for cell in cells if cell != "–"]
        assert known == numbers[direction](known)
        assert len(set(known)) > 1
        assert set(cells[len(known) :]) == {"–"}, "what is not known is last, whichever way"
        assert sorted(cells) == sorted(before[purified])
    tab.click(f"#table th:nth-child({purified + 1}) button")
    assert [column(tab, place) for place in range(len(heads))] == before
    assert tab.run("document.querySelectorAll('#table [aria-sort]').length") == 0
    # By name, as people count: eps8 before eps16.
    tab.click(f"#table th:nth-child({heads.index('Attack') + 1}) button")
    assert list(dict.fromkeys(column(tab, heads.index("Attack")))) == list(ATTACKS)


def test_the_table_is_filtered_by_its_columns(tab: Tab, one_file: Path) -> None:
    tab.open(one_file)
    rows = len(column(tab, 0))
    assert rows == len(VENDORS) * len(ATTACKS) * (1 + len(PURIFIERS))
    tab.run("""(() => {
        const picks = [...document.querySelectorAll("#table-filters select")];
        picks.find((pick) => [...pick.options].some((one) => one.value === "zeta (emulated)")).value = "zeta (emulated)";
        picks.at(-1).value = "gaussian/2";
        picks[0].dispatchEvent(new Event("change", { bubbles: true }));
    })()""")
    assert column(tab, 0) == ["zeta (emulated)"] * len(ATTACKS)
    assert tab.run("document.getElementById('table-count').textContent") == f"{len(ATTACKS)} of {rows} rows"
    # What repeats is said once, of the rows that are shown.
    again = "[...document.querySelectorAll('#table tr:not([hidden]) th:first-child')].map(c => c.classList.contains('again'))"
    assert tab.run(again) == [False, False, True]
    tab.click("#table-filters button")
    tab.wait(f"document.getElementById('table-count').textContent === '{rows} of {rows} rows'")


# --- the photographs ---


@pytest.mark.parametrize("kind", ["one_file", "several_files"])
def test_photographs_are_filtered(tab: Tab, store: Path, kind: str, request: pytest.FixtureRequest) -> None:
    file: Path = request.getfixturevalue(kind)
    assert bool(list(file.parent.glob("index_files/*.js"))) is (kind == "several_files")
    tab.open(file)
    tab.wait("document.body.dataset.shown")
    order = [f"{number:02d}" for number in range(PHOTOGRAPHS)]
    groups = compare.answers(frames.read(store))
    for who, answers in enumerate(groups, 1):
        for number, attack in enumerate(ATTACKS, 1):
            for fate in "blku":
                choose(tab, who=str(who), attack=str(number), fate=fate)
                expected = {source for source in order if marks.fate(answers, attack, source) == fate}
                assert count(tab) == f"{len(expected)} of {PHOTOGRAPHS} photographs"
                assert set(shown(tab)) <= expected
                assert len(shown(tab)) == min(page.SHOWN, len(expected))
        choose(tab, who=str(who), fate="c")
        assert set(shown(tab)) == {source for source in order if marks.changed_clean(answers, source)} != set()
    # What another provider said is not on the screen.
    choose(tab, who="1")
    visible = "[...document.querySelectorAll('.said')].filter(s => s.checkVisibility()).map(s => s.dataset.g)"
    assert set(tab.run(visible)) == {"1"}
    for place, truth in enumerate(CLASSES):
        choose(tab, **{"class": str(truth)})
        expected = [source for source in order if int(source) % 2 == place]
        assert count(tab) == f"{len(expected)} of {PHOTOGRAPHS} photographs"
        assert set(shown(tab)) <= set(expected)
    tab.click("#filters button")
    tab.wait(f"document.getElementById('count').textContent === '{PHOTOGRAPHS} of {PHOTOGRAPHS} photographs'")


@pytest.mark.parametrize("kind", ["one_file", "several_files"])
def test_all_photographs_can_be_reached(tab: Tab, kind: str, request: pytest.FixtureRequest) -> None:
    tab.open(request.getfixturevalue(kind))
    tab.wait("document.body.dataset.shown")
    seen = shown(tab)
    assert tab.run("document.getElementById('previous').disabled")
    while not tab.run("document.getElementById('next').disabled"):
        turn = tab.run("document.body.dataset.shown")
        tab.click("#next")
        tab.wait(f"document.body.dataset.shown !== '{turn}'")
        assert len(shown(tab)) <= page.SHOWN
        seen += shown(tab)
    assert sorted(seen) == [f"{number:02d}" for number in range(PHOTOGRAPHS)]
    # Every picture is one that can be seen, and of its own photograph.
    decoded = "[...document.images].map((one) => { one.loading = 'eager'; return one.decode().then(() => one.naturalWidth); })"
    assert set(tab.run(f"Promise.all({decoded})")) == {16}
    assert tab.run("document.activeElement.closest('.card') === document.querySelector('.card')")
    # A link to a photograph leads to it, on whichever page it is.
    tab.run("location.hash = '#p3'")
    tab.wait("document.activeElement.id === 'p3'")
    assert shown(tab) == seen[: page.SHOWN]


def test_a_file_that_is_not_beside_the_page_is_named(tab: Tab, several_files: Path, tmp_path: Path) -> None:
    file = tmp_path / "index.html"
    shutil.copyfile(several_files, file)
    tab.open(file)
    tab.wait("document.body.dataset.shown")
    assert len(shown(tab)) == page.SHOWN
    tab.click("#next")
    tab.wait("document.querySelector('#cards').textContent.includes('is not beside this page')")
    assert "ERR_FILE_NOT_FOUND" in tab.complaints[0]
    tab.complaints.clear()


# --- the slider ---

FIGURE = """(() => {{
  const strip = document.querySelectorAll("#{card} .strip")[{strip}];
  const cell = [...strip.querySelectorAll(".family .cell")].filter((one) => one.checkVisibility());
  const image = cell[0].querySelector("img");
  return [cell.length, image.src, cell[0].querySelector(".mark").textContent.trim(), cell[0].querySelector("li bdi").textContent];
}})()"""


def test_the_slider_changes_the_picture_and_what_was_said(tab: Tab, one_file: Path) -> None:
    tab.open(one_file)
    tab.wait("document.body.dataset.shown")
    # Of the first photograph, acme's label comes back after two iterations.
    card = tab.run("document.querySelector('.card').id")
    steps = "[...document.querySelectorAll('.slide output')].map((one) => one.value)"
    assert tab.run(steps)[:3] == ["2 iterations"] * 3, "where it came back"
    tab.run(f"document.querySelectorAll('#{card} .slide input')[1].focus()")
    tab.press("Home")
    first, *_ = [tab.run(FIGURE.format(card=card, strip=1))]
    assert first[0] == 1
    assert first[2:] == ["✕ still lost", "wolf"]
    clean = tab.run(FIGURE.format(card=card, strip=0))
    others = tab.run(steps)[3:]
    tab.press("ArrowRight")
    second = tab.run(FIGURE.format(card=card, strip=1))
    assert second[0] == 1
    assert second[1] != first[1]
    assert second[2:] == ["↺ came back", "dog"]
    # The pictures without an attack go with it, those of other photographs do not.
    assert tab.run(FIGURE.format(card=card, strip=0))[1] != clean[1]
    assert tab.run(steps) == ["2 iterations"] * 3 + others
    assert tab.run("document.activeElement.getAttribute('aria-valuetext')") == "2 iterations"
    tab.press("End")
    assert tab.run(steps)[0] == "4 iterations"
    tab.press("Home")
    assert tab.run(FIGURE.format(card=card, strip=1)) == first


# --- without a mouse, without scripts, on a phone ---


def test_the_keyboard_is_enough(tab: Tab, one_file: Path) -> None:
    tab.open(one_file)
    tab.wait("document.body.dataset.shown")
    focus = "document.activeElement"
    tab.press("Tab")
    assert tab.run(f"{focus}.className") == "skip"
    assert tab.run(f"{focus}.getBoundingClientRect().top") >= 0, "the link is seen once it has the focus"
    tab.press("Enter")
    tab.wait("location.hash === '#photographs'")
    tab.press("Tab")
    assert tab.run(f"{focus}.id") == "pick-who"
    assert tab.run(f"getComputedStyle({focus}).outlineStyle") == "solid"
    tab.press("ArrowDown")  # the first provider
    tab.wait("document.body.dataset.who === '1'")
    tab.press("j")
    assert tab.run(f"{focus}.id") == "pick-who", "letters belong to the list"
    tab.press("Tab", "Tab", "Tab", "Tab", "Tab")
    assert tab.run(f"{focus}.className") == "scroll"
    # From photograph to photograph, over the end of the page of them, and back.
    for number in [*range(2, page.SHOWN + 2)]:
        tab.press("j")
        tab.wait(f"{focus}.id === 'p{number}'")
    tab.press("k")
    tab.wait("document.querySelector('.card').id === 'p1'")
    # A head of the table.
    tab.run("document.querySelector('#table thead button').focus()")
    tab.press("Enter")
    assert tab.run("document.querySelector('#table th').ariaSort") == "ascending"
    # Everything that can be used can be reached, and says what it is.
    nameless = """[...document.querySelectorAll("button, select, input, [role=region]")].filter((one) => one.checkVisibility())
        .filter((one) => !(one.labels?.[0]?.textContent || one.ariaLabel || one.getAttribute("aria-labelledby")
            || one.textContent).trim()).length"""
    assert tab.run(nameless) == 0


def test_without_scripts_the_first_photographs_are_there(tab: Tab, one_file: Path) -> None:
    tab.size(1280, 900, scripts=False)
    tab.open(one_file)
    # Only the page's own scripts are off.
    assert len(shown(tab)) == page.SHOWN
    assert "are shown: the others need scripts" in tab.run("document.querySelector('noscript').textContent")
    visible = "[...document.querySelectorAll('#p1 .cell')].filter((one) => one.checkVisibility()).length"
    assert tab.run(visible) == 3 * (1 + len(PURIFIERS)) + len(ATTACKS), "each iteration is beside the others"
    assert tab.run("[...document.querySelectorAll('form, .slide, #pager')].every((one) => !one.checkVisibility())")
    assert len(column(tab, 0)) == len(VENDORS) * len(ATTACKS) * (1 + len(PURIFIERS))


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_it_without_scrolling_sideways(tab: Tab, one_file: Path, dark: bool) -> None:
    tab.size(390, 844, dark=dark)
    tab.open(one_file)
    tab.wait("document.body.dataset.shown")
    assert tab.run("document.documentElement.scrollWidth") <= 390
    colours = [tab.run(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")]
    paper, ink = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert (ink > 600 > 150 > paper) if dark else (paper > 600 > 150 > ink)


# --- hostile text ---


@pytest.mark.parametrize("most", [0, 10**6])
def test_hostile_text_does_not_run(
    tab: Tab,
    hostile: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
) -> None:
    monkeypatch.setattr(page, "MOST_INLINE", most)
    monkeypatch.setattr(page, "SHOWN", 2)
    file = written(hostile, tmp_path / "out")
    text = file.read_text(encoding="utf-8")
    # Without the policy, so that it is the escaping that is looked at.
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert len(bare) < len(text)
    file.write_text(bare, encoding="utf-8")
    tab.open(file)
    tab.wait("document.body.dataset.shown")
    assert count(tab) == f"{len(HOSTILE)} of {len(HOSTILE)} photographs"
    labels = []
    for _ in range(len(HOSTILE)):
        labels += tab.run("[...document.querySelectorAll('.card li bdi')].map((one) => one.textContent)")
        assert tab.run("document.body.dataset.owned") is None
        if tab.run("document.getElementById('next').disabled"):
            break
        turn = tab.run("document.body.dataset.shown")
        tab.click("#next")
        tab.wait(f"document.body.dataset.shown !== '{turn}'")
    assert {cards.text.plain(one, 80) for one in HOSTILE} <= set(labels), "it can still be read"
    assert tab.run("document.querySelectorAll('#cards script, #cards svg, #cards base').length") == 0
    # The payload itself would have worked: the same text, unescaped, does.
    file.write_text(f"<!doctype html><html><head></head><body><p>{HOSTILE[1]}</p></body></html>", encoding="utf-8")
    tab.open(file)
    tab.wait("document.body.dataset.owned === '1'")
    tab.complaints.clear()


def test_the_policy_lets_nothing_else_run(tab: Tab, several_files: Path, tmp_path: Path) -> None:
    text = several_files.read_text(encoding="utf-8")
    own = "document.body.dataset.owned = 1"
    (tmp_path / "evil.js").write_text(own)
    evil = (
        f"<script>{own}</script><script src=evil.js></script><img src=x onerror='{own}'><img src=http://127.0.0.1:9/x>"
    )
    file = tmp_path / "index.html"
    file.write_text(text.replace("<main>", f"<main>{evil}", 1), encoding="utf-8")
    tab.open(file)
    tab.wait("document.body.dataset.shown")
    assert tab.run("document.body.dataset.owned") is None
    assert len(tab.complaints) >= 3
    tab.complaints.clear()
    tab.requests[:] = [
        one for one in tab.requests if not one.startswith("http:")
    ]  # refused, and still noted as asked for
