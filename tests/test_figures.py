"""The figures of a report: what is drawn, that it is what the tables say, and that nothing in a store can do harm in it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet
from PIL import Image

from apibench.report import classes, compare, figures, frames, write_report
from apibench.report.classes import short
from apibench.report.figures import agreement, canvas, others
from apibench.report.picture import Files
from tests.storemaker import StoreMaker
from tests.test_page import HOSTILE, Painter

Line = tuple[str, list[float], list[float]]
EPSILONS = (8, 16)
PURIFIERS = ("gaussian/1", "gaussian/2", "jpeg:50/1")
PHOTOGRAPHS = 10


def store(folder: Path, origin: str = "emulated", version: str = "emulated/net-a", name: str = "mi-di") -> Path:
    """Of ten photographs, epsilon 8 changes five labels and 16 all; one more comes back with each iteration of gaussian."""
    maker = StoreMaker(folder / "store.sqlite")
    painter = Painter(maker)
    for number in range(PHOTOGRAPHS):
        about = {"origin": origin, "version": version, "truth": 207 if number < 4 else 8}
        for attack in ("clean", *(f"{name}/eps{epsilon}" for epsilon in EPSILONS)):
            lost = {"clean": 0, f"{name}/eps8": 5, f"{name}/eps16": 10}[attack]
            level = 100 + {"clean": 0, f"{name}/eps8": 8, f"{name}/eps16": -16}[attack]
            for purifier in ("", *PURIFIERS):
                back = int(purifier[-1]) if purifier.startswith("gaussian") and attack != "clean" else 0
                same = number >= lost - back and not (purifier == "gaussian/2" and attack == "clean" and number == 0)
                variant = attack + ("+" if purifier else "") + purifier
                painter.ask(str(number), variant, ["dog" if same else "fox"], level=level, **about)
    return maker.close()


def drawn(path: Path) -> dict[str, figures.Figure]:
    found = frames.read(path)
    groups = compare.answers(found)
    made = figures.draw(found, groups, compare.rows(groups), Files(path, found.images))
    return {Path(next(iter(figure.files))).stem: figure for figure in made}


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Line]:
    """Every line that is drawn: its style, and the places of its points to the nearest whole iteration or level."""
    found: list[Line] = []
    real = Axes.errorbar

    def errorbar(self: Axes, x: list[float], y: list[float], **about: object) -> object:
        found.append((str(about.get("linestyle", "-")), [round(one) for one in x], y))
        return real(self, x, y, **about)  # type: ignore[arg-type]

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    return found


def test_every_figure_is_there_in_both_forms(tmp_path: Path) -> None:
    files = write_report(store(tmp_path), tmp_path / "out")
    names = ["classes-mi-di-eps16", "classes-mi-di-eps8", "epsilon-mi-di"]
    names += ["iterations-mi-di-eps16", "iterations-mi-di-eps8", "noise", "providers"]
    written = sorted(path.name for path in (tmp_path / "out" / "figures").iterdir())
    assert written == sorted(f"{name}.{form}" for name in names for form in ("png", "svg"))
    document = files.report.read_text(encoding="utf-8")
    for name in names:
        with Image.open(tmp_path / "out" / "figures" / f"{name}.png") as image:
            assert image.width > 600
        root = ElementTree.parse(tmp_path / "out" / "figures" / f"{name}.svg").getroot()
        assert root.tag.endswith("svg")
        assert f"](figures/{name}.png)" in document
        assert f"](figures/{name}.svg)" in document


def test_the_lines_are_the_shares_of_the_table(tmp_path: Path, lines: list[Line]) -> None:
    path = store(tmp_path)
    rows = compare.rows(compare.answers(frames.read(path)))
    with canvas.drawing():
        agreement.iterations(rows, {row.group: "acme" for row in rows})
    assert lines[:4] == [
        ("-", [0, 1, 2], [0.5, 0.6, 0.7]),
        ("--", [1, 2], [0.0, 0.1]),  # its cost
        ("-", [0, 1], [0.5, 0.5]),
        ("--", [1], [0.0]),
    ]
    lines.clear()
    with canvas.drawing():
        agreement.epsilons(rows, {row.group: "acme" for row in rows})
    assert [(style, x, y) for style, x, y in lines] == [
        (":", [8, 16], [0.5, 0.0]),
        ("-", [8, 16], [0.6, 0.1]),
        ("-", [8, 16], [0.7, 0.2]),
        ("-", [8, 16], [0.5, 0.0]),
    ]


def test_the_heat_map_counts_by_class(tmp_path: Path) -> None:
    (answers,) = compare.answers(frames.read(store(tmp_path)))
    found = agreement._by_class(answers, "mi-di/eps8")
    assert {key: (share.k, share.n) for key, share in found.items() if key[0] in ("none", "gaussian/2")} == {
        ("none", 207): (0, 4),
        ("none", 8): (5, 6),
        ("gaussian/2", 207): (1, 4),
        ("gaussian/2", 8): (6, 6),
    }


def test_the_noise_is_that_of_the_files(tmp_path: Path) -> None:
    path = store(tmp_path)
    found = frames.read(path)
    files = Files(path, found.images)
    counts, pairs = others._levels("mi-di/eps8", [str(number) for number in range(PHOTOGRAPHS)], files)
    assert pairs == PHOTOGRAPHS
    # All but the first pixel of each file, which tells them apart.
    assert counts[255 + 8] >= PHOTOGRAPHS * 3 * (12 * 16 - 1)
    assert counts.sum() == PHOTOGRAPHS * 3 * 12 * 16
    assert others._levels("mi-di/eps8", ["nothing"], files)[1] == 0


def test_who_answered_stands_in_each_figure_of_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    title = Sheet.suptitle

    def suptitle(self: Sheet, text: str, **about: object) -> object:
        said.append(text)
        return title(self, text, **about)

    monkeypatch.setattr(Sheet, "suptitle", suptitle)
    emulated, live = tmp_path / "emulated", tmp_path / "live"
    for folder in (emulated, live):
        folder.mkdir()
    names = list(drawn(store(emulated)))
    loud = dict(zip(names, said, strict=True))
    assert [name for name, text in loud.items() if "EMULATED: answered by net-a, not by a vendor." not in text] == [
        "noise"
    ]
    said.clear()
    found = drawn(store(live, origin="live", version="3.0"))
    assert not any("EMULATED" in text for text in said)
    # Live answers were paid for: 0.001 USD each.
    assert "list, of all that was billed" in found["providers"].caption
    assert "Nothing was paid" not in found["providers"].caption


def test_a_figure_with_nothing_to_show_is_left_out(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path / "store.sqlite")
    maker.ask("A", "clean", ["dog"])
    maker.ask("A", "mi-di/eps16", ["fox"])
    maker.ask("A", "mi-di/eps16+ncis/2", ["dog"])
    # One iteration count, one epsilon, no class, no files.
    assert set(drawn(maker.close())) == {"providers"}


def test_the_same_store_gives_the_same_bytes_whatever_the_users_settings(tmp_path: Path) -> None:
    path = store(tmp_path)
    one = {name: figure.files for name, figure in drawn(path).items()}
    with mpl.rc_context({"font.size": 30, "axes.labelsize": 20, "xtick.direction": "in"}):
        assert {name: figure.files for name, figure in drawn(path).items()} == one
        assert mpl.rcParams["font.size"] == 30
    assert not any(b"<dc:date>" in data for files in one.values() for data in files.values())


def test_figures_of_an_earlier_report_are_taken_away(tmp_path: Path) -> None:
    path = store(tmp_path)
    write_report(path, tmp_path / "out")
    folder = tmp_path / "out" / "figures"
    (folder / "mine.png").write_bytes(b"not of a report")
    maker = StoreMaker(tmp_path / "other.sqlite")
    maker.ask("A", "clean", ["dog"])
    write_report(maker.close(), tmp_path / "out")
    assert sorted(one.name for one in folder.iterdir()) == ["mine.png", "providers.png", "providers.svg"]


@pytest.mark.parametrize("text", [HOSTILE[0], HOSTILE[6], r"$\frac{$ \input{x}", "_-- --> 狐狸"])
def test_hostile_names_are_only_drawn(tmp_path: Path, text: str) -> None:
    name = text.replace("+", "").replace("/", "-")
    found = drawn(store(tmp_path, version=f"emulated/{text}", name=name))
    assert len(found) == 7
    for figure in found.values():
        assert all(Path(file).parent == Path("figures") and len(Path(file).parts) == 2 for file in figure.files)
        (svg,) = (data for file, data in figure.files.items() if file.endswith(".svg"))
        for element in ElementTree.fromstring(svg).iter():
            tag = element.tag.rpartition("}")[2]
            assert tag not in {"script", "foreignObject", "a", "iframe"}
            links = [value for name, value in element.attrib.items() if name.endswith("href")]
            assert all(link.startswith("data:image/png" if tag == "image" else "#") for link in links)
        with Image.open(BytesIO(figure.files[next(iter(figure.files))])) as image:
            assert np.asarray(image).std() > 0
    assert not any("<" in part.replace("&lt;", "") for part in figures.section(list(found.values())))


def test_matplotlib_is_imported_only_to_draw() -> None:
    code = "import sys, apibench.cli, apibench.report; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_home_that_cannot_be_written_does_not_matter(tmp_path: Path) -> None:
    path = store(tmp_path)
    code = f"""if True:
        from pathlib import Path
        from apibench.report import compare, figures, frames
        from apibench.report.picture import Files
        path = Path({str(path)!r})
        found = frames.read(path)
        groups = compare.answers(found)
        print(len(figures.draw(found, groups, compare.rows(groups), Files(path, found.images))))"""
    about = {
        "HOME": "/dev/null",
        "XDG_CONFIG_HOME": "/dev/null",
        "XDG_CACHE_HOME": "/dev/null",
        "PATH": "/usr/bin:/bin",
    }
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=300, env=about, capture_output=True, text=True, cwd=Path.cwd()
    )
    assert (found.stdout, found.stderr) == ("7\n", "")


def test_a_warning_is_never_cut_and_names_stay_apart() -> None:
    group = compare.Group("may", "acme", "emulated", "{}", "", "Acme", "")
    groups = [replace(group, network=f"pypi:a_network_with_a_long_name_{number}") for number in range(4)]
    sheet, _ = canvas.panels(1)
    canvas.finish(sheet, "x", "A title", "", groups)
    said = sheet.get_suptitle()
    assert "not by a vendor." in said.replace("\n", " ")
    assert max(map(len, said.splitlines())) <= 13 * sheet.get_figwidth()
    long = [short(f"bilateral:sigma_space=2.0,sigma_color=0.10,window={last}/1") for last in (5, 7)]
    assert len(set(long)) == 2
    assert max(map(len, long)) == 40


def test_purifiers_that_the_heat_map_leaves_out_are_counted(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path / "store.sqlite")
    for variant in ("clean", "mi/eps8", *(f"mi/eps8+p/{number}" for number in range(1, 15))):
        maker.ask("A", variant, ["dog"], truth=207)
    assert "2 more purifiers are not shown" in drawn(maker.close())["classes-mi-eps8"].caption


def test_class_sheets_of_one_provider_say_which_origin_and_settings_they_are_of(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path / "store.sqlite")
    for origin, settings in (("emulated", "{}"), ("custom", "{}"), ("custom", '{"top": 5}')):
        for variant in ("clean", "mi/eps8"):
            maker.ask("A", variant, ["dog"], truth=207, origin=origin, settings=settings)
    groups = compare.answers(frames.read(maker.close()))
    sheets = [classes.sheet(answers, "mi/eps8", []) for answers in groups]
    assert len({one.title for one in sheets if one}) == 3


@pytest.mark.parametrize("what", ["pipe", "device", "empty", "large"])
def test_what_is_no_file_of_an_image_is_not_read(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apibench.report.picture.MOST_BYTES", 3)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail(f"{self.name} was read"))
    folder, name = ("/dev", "zero") if what == "device" else (".", "x.png")
    if what == "pipe":
        os.mkfifo(tmp_path / name)
    elif what != "device":
        (tmp_path / name).write_text("" if what == "empty" else "long")
    row = {"attack": "clean", "purifier": "none", "source": "A", "folder": folder, "file": name, "sha256": "0"}
    assert Files(tmp_path / "store.sqlite", pd.DataFrame([row])).pixels("clean", "none", "A") is None
