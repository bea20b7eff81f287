"""What changed since: another campaign, another store, another model version; and what cannot be compared."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from apibench import metrics
from apibench.commands.report import report as command
from apibench.errors import ApibenchError, ExitCode
from apibench.report import write_report
from tests.storemaker import StoreMaker
from tests.test_grid import compile_latex, needs_latex

ATTACK = "mi-di/eps16"
RETRIEVER = 207


@pytest.fixture
def maker(tmp_path: Path) -> StoreMaker:
    return StoreMaker(tmp_path / "store.sqlite")


def ask(
    maker: StoreMaker, campaign: str, kept: int, *, n: int = 30, right: int = 0, version: str = "3.0", **more: Any
) -> None:
    """``kept``: how many attacked images keep their label; ``right``: of how many clean ones the class is named."""
    about: dict[str, Any] = {"campaign": campaign, "origin": "live", "version": version, **more}
    for i in range(n):
        maker.ask(f"s{i:02}", "clean", ["Golden Retriever" if i < right else "Dog thing"], truth=RETRIEVER, **about)
        first = "Golden Retriever" if i < right else "Dog thing"
        maker.ask(f"s{i:02}", ATTACK, [first if i < kept else "Fox"], **about)


def against(store: Path, out: Path, spec: str, campaign: str | None = None) -> list[dict[str, str]]:
    write_report(store, out, campaign, spec)
    return list(csv.DictReader(StringIO((out / "tables/against.csv").read_text(encoding="utf-8"))))


def words(folder: Path) -> str:
    """What the report says of the changes, above the table."""
    report = (folder / "out/report.md").read_text(encoding="utf-8")
    return report.split("## Changes since ")[1].split("\n|")[0]


def caption(folder: Path, form: str = "md") -> str:
    return (folder / f"out/tables/against.{form}").read_text(encoding="utf-8")


def test_what_changed_by_hand(maker: StoreMaker, tmp_path: Path) -> None:
    ask(maker, "may", kept=10, right=12)
    ask(maker, "june", kept=22, right=20, version="3.1")
    clean, attacked = against(maker.close(), tmp_path / "out", "may", "june")
    assert (clean["campaign_then"], clean["campaign_now"], clean["attack"]) == ("may", "june", "clean")
    assert [clean[f"model_version{end}"] for end in ("_then", "_now", "")] == ["3.0", "3.1", "changed"]
    # Clean: 8 of 30 have another first label now. A clean image agrees with itself, so agreement is not compared.
    assert (clean["first_changed_k"], clean["first_changed_n"], clean["images"]) == ("8", "30", "30")
    assert clean["agreement_n"] == ""
    assert [clean[f"correct5_{end}"] for end in ("then", "now", "gained", "lost")] == [
        "0.4",
        f"{20 / 30:.9g}",
        "8",
        "0",
    ]
    # Attacked: 10 then, 22 now.
    assert [attacked[f"agreement_{end}"] for end in ("n", "gained", "lost")] == ["30", "12", "0"]
    assert float(attacked["agreement_difference"]) == pytest.approx(0.4)
    # Tests of the table: clean correct 8:0, attacked agreement 12:0, attacked correct 10:0 (s10 to s19).
    p = {"agreement": metrics.sign_test_p(12, 0), "correct5": metrics.sign_test_p(10, 0)}
    adjusted = metrics.holm([metrics.sign_test_p(8, 0), p["agreement"], p["correct5"]])
    assert float(clean["correct5_p_holm"]) == pytest.approx(adjusted[0])
    assert float(attacked["agreement_p_holm"]) == pytest.approx(adjusted[1])
    assert float(attacked["correct5_p_holm"]) == pytest.approx(adjusted[2])
    report = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    section = report.split("## Changes since campaign may")[1].split("\n## ")[0]
    assert "**the model version changed**, from 3.0 to 3.1" in section
    assert "The first label of 8 of 30 clean images changed." in section
    # A difference, and from where to where: never a bare number that could be a level.
    assert "agreement of mi-di/eps16 by +40.0 points (33.3 to 73.3 %), 95 % interval +" in section
    assert "Not compared" not in section
    assert "tables/against.tex" in report


def test_nothing_changed(maker: StoreMaker, tmp_path: Path) -> None:
    """Where no image differs there is nothing to test: "not significant" would be a finding."""
    ask(maker, "may", kept=10)
    ask(maker, "june", kept=10)
    clean, attacked = against(maker.close(), tmp_path / "out", "may", "june")
    assert (clean["first_changed_k"], attacked["agreement_difference"]) == ("0", "0")
    assert (attacked["agreement_p"], attacked["agreement_p_holm"]) == ("", "")
    report = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "the same model version (3.0)" in report
    assert (
        "Not tested: agreement (no image's agreement differs); correctness (top 5) (no image's correctness differs)."
        in report
    )
    assert "ignificant" not in report.split("## Changes since")[1].split("\n## ")[0]
    assert "not tested" in (tmp_path / "out/tables/against.tex").read_text(encoding="utf-8")


def test_too_few_images_are_not_tested(maker: StoreMaker, tmp_path: Path) -> None:
    """All five differ, the same way: p is 0.0625 at least. Of six, 0.03125."""
    for provider, n in (("acme", 5), ("bravo", 6)):
        ask(maker, "may", kept=0, n=n, provider=provider)
        ask(maker, "june", kept=n, n=n, provider=provider)
    rows = against(maker.close(), tmp_path / "out", "may", "june")
    tested = {
        row["provider_now"]: (row["agreement_n"], row["agreement_p_holm"]) for row in rows if row["attack"] == ATTACK
    }
    assert tested == {"acme": ("5", ""), "bravo": ("6", "0.03125")}  # one test: Holm corrects for no other
    report = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "Not tested: agreement (fewer than 6 images show nothing)" in report
    assert "Significant, of 1 tested: agreement of mi-di/eps16 by +100.0 points (0.0 to 100.0 %)" in report


def test_without_classes_correctness_is_not_tested(maker: StoreMaker, tmp_path: Path) -> None:
    for campaign in ("may", "june"):
        for i in range(8):
            maker.ask(f"s{i}", "clean", ["dog"], campaign=campaign)
            maker.ask(f"s{i}", ATTACK, ["dog" if i or campaign == "may" else "fox"], campaign=campaign)
    against(maker.close(), tmp_path / "out", "may", "june")
    report = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "Significant, of 1 tested: no difference." in report
    assert "Not tested: correctness (top 5) (no photograph was given its class)." in report


def test_both_are_judged_by_the_classes_of_the_report(maker: StoreMaker, tmp_path: Path) -> None:
    """A label put right between the two measurements is no change of the vendor's, who says what it said."""
    old = StoreMaker(tmp_path / "old.sqlite")
    for i in range(10):
        old.ask(f"s{i}", "clean", ["Golden Retriever"], campaign="may", truth=RETRIEVER if i < 7 else 281)
        maker.ask(f"s{i}", "clean", ["Golden Retriever"], truth=RETRIEVER)
    old.close()
    (clean,) = against(maker.close(), tmp_path / "out", str(tmp_path / "old.sqlite"))
    assert [clean[f"correct5_{end}"] for end in ("then", "now", "gained")] == ["1", "1", "0"]
    said = "the store of then has another class for 3 of the photographs"
    assert said in words(tmp_path)
    assert said in caption(tmp_path)


def test_a_version_that_is_not_named_is_not_said_to_be_the_same(maker: StoreMaker, tmp_path: Path) -> None:
    for campaign in ("may", "june"):
        ask(maker, campaign, kept=10, version="")
    against(maker.close(), tmp_path / "out", "may", "june")
    assert "is not known" in (tmp_path / "out/report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("spec", ["{old}", "{old}:may"])
def test_another_store(maker: StoreMaker, tmp_path: Path, spec: str) -> None:
    old = StoreMaker(tmp_path / "old.sqlite")
    ask(old, "may", kept=10)
    old.close()
    ask(maker, "default", kept=20)
    _, attacked = against(maker.close(), tmp_path / "out", spec.format(old=tmp_path / "old.sqlite"))
    assert attacked["agreement_gained"] == "10"
    report = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "## Changes since campaign may of another store" in report
    # Its name may change, so it stands in one line alone, which --verify knows.
    assert [line for line in report.splitlines() if "old.sqlite" in line] == [
        "- Changes are since answers in `old.sqlite`."
    ]
    assert "old.sqlite" not in caption(tmp_path)
    assert str(tmp_path) not in (tmp_path / "out/provenance.json").read_text(encoding="utf-8")


def test_a_report_of_all_campaigns_is_compared_but_for_that_one(maker: StoreMaker, tmp_path: Path) -> None:
    ask(maker, "may", kept=10)
    ask(maker, "june", kept=12)
    ask(maker, "july", kept=14)
    rows = against(maker.close(), tmp_path / "out", "may")
    assert [(row["campaign_now"], row["agreement_gained"]) for row in rows if row["attack"] == ATTACK] == [
        ("july", "4"),
        ("june", "2"),
    ]


def test_failed_images_are_left_out_and_other_files_counted(maker: StoreMaker, tmp_path: Path) -> None:
    for campaign in ("may", "june"):
        maker.ask("A", "clean", ["dog"], campaign=campaign)
        maker.ask("A", ATTACK, ["dog"], campaign=campaign)
        maker.ask("B", "clean", ["dog"], campaign=campaign)
        maker.ask("B", ATTACK, "failed" if campaign == "june" else ["dog"], campaign=campaign)
        maker.ask("C", "clean", ["dog"], campaign=campaign)
        maker.ask("C", ATTACK, ["dog"], campaign=campaign, folder=campaign)  # made again: another file
    _, attacked = against(maker.close(), tmp_path / "out", "may", "june")
    assert (attacked["images"], attacked["other_files"]) == ("2", "1")
    assert (attacked["first_changed_n"], attacked["first_changed_left_out"], attacked["agreement_n"]) == ("1", "1", "1")


def test_an_empty_answer_is_a_change(maker: StoreMaker, tmp_path: Path) -> None:
    for campaign, said in (("may", ["dog"]), ("june", [])):
        maker.ask("A", "clean", ["dog"], campaign=campaign)
        maker.ask("A", ATTACK, said, campaign=campaign)
    _, attacked = against(maker.close(), tmp_path / "out", "may", "june")
    assert (attacked["first_changed_k"], attacked["agreement_lost"]) == ("1", "1")


def test_settings_that_differ_are_said(maker: StoreMaker, tmp_path: Path) -> None:
    ask(maker, "may", kept=10, settings='{"MaxLabels": 5, "MinConfidence": 55}')
    ask(maker, "june", kept=10, settings='{"MaxLabels": 10, "MinConfidence": 55, "lang": "en"}')
    against(maker.close(), tmp_path / "out", "may", "june")
    differ = "MaxLabels 5 then, 10 now, lang not set then, en now."
    assert f"Mind the settings, which may be why: {differ}" in words(tmp_path)
    assert f"Other settings: acme, campaign june: {differ}" in caption(tmp_path)
    assert f"Other settings: acme, campaign june: {differ}" in caption(tmp_path, "tex")


@needs_latex
def test_the_table_compiles(maker: StoreMaker, tmp_path: Path) -> None:
    ask(maker, "may_1", kept=10)
    ask(maker, "june_2", kept=22, version="3.1~beta", settings='{"a_b": "50%"}')
    maker.ask("s00", f"{ATTACK}+a_b*&{{", ["dog"], campaign="june_2", settings="{}", version="3.1")
    against(maker.close(), tmp_path / "out", "may_1")
    compile_latex(tmp_path, (tmp_path / "out/tables/against.tex").read_text(encoding="utf-8"))


# --- what is not compared ---


@pytest.mark.parametrize(
    ("then", "now"),
    [("live", "emulated"), ("emulated", "live"), ("live", "replay of live"), ("local", "live"), ("live", "custom")],
)
def test_a_vendor_is_not_compared_with_what_answers_in_its_place(
    maker: StoreMaker, tmp_path: Path, then: str, now: str
) -> None:
    ask(maker, "may", kept=10, origin=then)
    ask(maker, "june", kept=22, origin=now)
    ask(maker, "may", kept=10, provider="bravo")
    ask(maker, "june", kept=22, provider="bravo")
    rows = against(maker.close(), tmp_path / "out", "may", "june")
    assert {row["provider_now"] for row in rows} == {"bravo"}
    said = f"Not compared: acme, campaign june ({then} then, {now} now)."
    assert said in words(tmp_path)
    assert said in caption(tmp_path)


def test_where_nothing_else_was_asked_there_is_no_report(maker: StoreMaker, tmp_path: Path) -> None:
    ask(maker, "may", kept=10)
    ask(maker, "june", kept=22, origin="emulated")
    with pytest.raises(ApibenchError, match=r"--against may: .*acme, campaign june: live then, emulated now"):
        write_report(maker.close(), tmp_path / "out", "june", "may")


def test_providers_and_variants_of_one_side_are_listed(maker: StoreMaker, tmp_path: Path) -> None:
    for campaign in ("may", "june"):
        ask(maker, campaign, kept=10)
        maker.ask("s00", "mi/eps8", ["dog"], campaign=campaign, origin="live", version="3.0", folder=campaign)
    maker.ask("s00", "clean+ncis/4", ["dog"], campaign="may", origin="live", version="3.0")
    maker.ask("s00", f"{ATTACK}+ncis/4", ["dog"], campaign="may", origin="live", version="3.0")
    maker.ask("s00", f"{ATTACK}+a*b*", ["dog"], campaign="june", origin="live", version="3.0")
    maker.ask("s00", "clean", ["dog"], campaign="may", origin="live", provider="bravo")
    maker.ask("s00", "clean", ["dog"], campaign="june", origin="live", provider="charlie")
    maker.ask("s00", "clean", ["dog"], campaign="june", origin="emulated")
    maker.ask("s00", "clean", ["dog"], campaign="june", origin="live", version="3.0", settings='{"n": 1}')
    rows = against(maker.close(), tmp_path / "out", "may", "june")
    assert [row["attack"] for row in rows] == ["clean", ATTACK]
    for part in (
        "acme, campaign june: clean + ncis/4, mi-di/eps16 + ncis/4 (then only)",
        r"acme, campaign june: mi-di/eps16 + a\*b\* (now only)",
        "acme, campaign june: mi/eps8 (no image is the same file then and now)",
        "acme, campaign june (emulated, now only)",
        'acme, campaign june (live with settings {"n": 1}, now only)',
        "bravo, campaign june (live, then only)",
        "charlie, campaign june (live, now only)",
    ):
        assert part in words(tmp_path), part
        assert part in caption(tmp_path), part


def test_several_settings_none_of_them_alike(maker: StoreMaker, tmp_path: Path) -> None:
    ask(maker, "may", kept=10, provider="bravo")
    ask(maker, "june", kept=10, provider="bravo")
    for campaign, settings in (("may", '{"n": 1}'), ("may", '{"n": 2}'), ("june", '{"n": 3}')):
        maker.ask("s00", "clean", ["dog"], campaign=campaign, settings=settings)
    against(maker.close(), tmp_path / "out", "may", "june")
    said = "acme, campaign june (emulated, several settings, none of them the same then and now)"
    assert said in words(tmp_path)


# --- what cannot be compared ---


def test_other_images(maker: StoreMaker, tmp_path: Path) -> None:
    for campaign in ("may", "june"):
        maker.ask("A", "clean", ["dog"], campaign=campaign, folder=campaign)
    with pytest.raises(ApibenchError, match="no image there is one of this report's"):
        write_report(maker.close(), tmp_path / "out", "june", "may")
    assert not (tmp_path / "out/report.md").exists()


def test_other_providers(maker: StoreMaker, tmp_path: Path) -> None:
    maker.ask("A", "clean", ["dog"], campaign="may", provider="acme")
    maker.ask("A", "clean", ["dog"], campaign="june", provider="bravo")
    with pytest.raises(ApibenchError, match=r"acme, campaign june: emulated, then only; bravo.*: emulated, now only"):
        write_report(maker.close(), tmp_path / "out", "june", "may")


def test_the_campaign_itself(maker: StoreMaker, tmp_path: Path) -> None:
    maker.ask("A", "clean", ["dog"], campaign="may")
    with pytest.raises(ApibenchError, match="that very campaign"):
        write_report(maker.close(), tmp_path / "out", "may", "may")


def test_a_store_of_several_campaigns(maker: StoreMaker, tmp_path: Path) -> None:
    old = StoreMaker(tmp_path / "old.sqlite")
    for campaign in ("april", "may"):
        old.ask("A", "clean", ["dog"], campaign=campaign)
    old.close()
    maker.ask("A", "clean", ["dog"])
    with pytest.raises(ApibenchError, match=r"has several campaigns; name one, as in .*old\.sqlite:april"):
        write_report(maker.close(), tmp_path / "out", None, str(tmp_path / "old.sqlite"))


@pytest.mark.parametrize(
    "spec", ["april", "nowhere.sqlite", "nowhere.sqlite:may", "notes", "notes:may", "./notes", "folder"]
)
def test_nothing_of_that_name(maker: StoreMaker, tmp_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a store nor a campaign; a file that is no SQLite file is no store."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").write_text("SQLite, a note", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    maker.ask("A", "clean", ["dog"], campaign="may")
    with pytest.raises(ApibenchError) as error:
        write_report(maker.close(), tmp_path / "out", None, spec)
    assert str(error.value).startswith(f"--against {spec}: neither a store (an SQLite file) nor a campaign of ")
    assert str(error.value).endswith("store.sqlite (it has: may)")
    assert "\n" not in str(error.value)
    assert error.value.exit_code == ExitCode.NOTHING_DONE


def test_a_campaign_is_meant_before_a_file_of_its_name(
    maker: StoreMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stray file is no store; and a store of a campaign's name is meant by its path only."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "may").write_text("notes of May", encoding="utf-8")
    old = StoreMaker(tmp_path / "june")
    ask(old, "default", kept=2)
    old.close()
    for campaign, kept in (("may", 10), ("june", 12), ("july", 15)):
        ask(maker, campaign, kept=kept)
    store = maker.close()
    for spec, gained in (
        ("may", "5"),
        ("./may", None),
        ("june", "3"),
        ("./june", "13"),
        (str(tmp_path / "june"), "13"),
    ):
        if gained is None:
            with pytest.raises(ApibenchError, match=r"--against \./may: neither"):
                against(store, tmp_path / "out", spec, "july")
            continue
        _, attacked = against(store, tmp_path / "out", spec, "july")
        assert attacked["agreement_gained"] == gained, spec


def test_with_a_path_separator_a_store_is_meant_before_a_campaign(
    maker: StoreMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ask(maker, "runs/may", kept=10)
    ask(maker, "june", kept=15)
    store = maker.close()
    assert against(store, tmp_path / "out", "runs/may", "june")[1]["agreement_gained"] == "5"
    (tmp_path / "runs").mkdir()
    old = StoreMaker(tmp_path / "runs/may")
    ask(old, "default", kept=2)
    old.close()
    assert against(store, tmp_path / "out", "runs/may", "june")[1]["agreement_gained"] == "13"


def test_the_command_says_what_changed(maker: StoreMaker, tmp_path: Path) -> None:
    ask(maker, "may", kept=10)
    ask(maker, "june", kept=22, version="3.1")
    options = ["--store", str(maker.close()), "--out", str(tmp_path / "out"), "--campaign", "june", "--against", "may"]
    done = CliRunner().invoke(command, options, standalone_mode=False)
    assert done.exception is None, done.output
    assert "Changes since may:" in done.output
    assert "from 3.0 to 3.1" in done.output


def test_clean_images_that_nobody_could_answer_are_not_said_to_be_as_they_were(
    maker: StoreMaker, tmp_path: Path
) -> None:
    for campaign in ("may", "june"):
        for i in range(8):
            maker.ask(f"s{i}", "clean", ["dog"] if campaign == "may" else "failed", campaign=campaign)
    against(maker.close(), tmp_path / "out", "may", "june")
    assert "of 0 clean images" not in words(tmp_path)


def test_names_of_campaigns_come_to_the_terminal_as_text(maker: StoreMaker, tmp_path: Path) -> None:
    old = StoreMaker(tmp_path / "old.sqlite")
    for campaign in ("\x1b[31mred", "zoo"):
        ask(old, campaign, kept=10)
    ask(maker, "june", kept=10)
    old.close()
    with pytest.raises(ApibenchError, match="has several campaigns") as caught:
        write_report(maker.close(), tmp_path / "out", None, str(tmp_path / "old.sqlite"))
    assert "\x1b" not in str(caught.value)
