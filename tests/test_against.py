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
from apibench.errors import ApibenchError
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
    assert "agreement of mi-di/eps16 40.0 [" in section
    assert "tables/against.tex" in report


def test_nothing_changed(maker: StoreMaker, tmp_path: Path) -> None:
    ask(maker, "may", kept=10)
    ask(maker, "june", kept=10)
    clean, attacked = against(maker.close(), tmp_path / "out", "may", "june")
    assert (clean["first_changed_k"], attacked["agreement_difference"], attacked["agreement_p_holm"]) == ("0", "0", "1")
    report = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "the same model version (3.0)" in report
    assert "No difference in agreement or correctness is significant." in report


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
    assert "campaign may of old.sqlite" in (tmp_path / "out/report.md").read_text(encoding="utf-8")
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
    ask(maker, "may", kept=10, settings='{"MaxLabels": 5}')
    ask(maker, "june", kept=10, settings='{"MaxLabels": 10}')
    against(maker.close(), tmp_path / "out", "may", "june")
    report = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "Mind the settings:" in report


@needs_latex
def test_the_table_compiles(maker: StoreMaker, tmp_path: Path) -> None:
    ask(maker, "may_1", kept=10)
    ask(maker, "june_2", kept=22, version="3.1~beta")
    against(maker.close(), tmp_path / "out", "may_1")
    compile_latex(tmp_path, (tmp_path / "out/tables/against.tex").read_text(encoding="utf-8"))


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
    with pytest.raises(ApibenchError, match=r"no provider with the same origin and settings.*there: acme; here: bravo"):
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


@pytest.mark.parametrize("spec", ["april", "nowhere.sqlite", "nowhere.sqlite:may"])
def test_nothing_of_that_name(maker: StoreMaker, tmp_path: Path, spec: str) -> None:
    maker.ask("A", "clean", ["dog"], campaign="may")
    with pytest.raises(ApibenchError, match=r"--against .*(april|nowhere)") as error:
        write_report(maker.close(), tmp_path / "out", None, spec)
    assert len(str(error.value).splitlines()) <= 3


def test_the_command_says_what_changed(maker: StoreMaker, tmp_path: Path) -> None:
    ask(maker, "may", kept=10)
    ask(maker, "june", kept=22, version="3.1")
    options = ["--store", str(maker.close()), "--out", str(tmp_path / "out"), "--campaign", "june", "--against", "may"]
    done = CliRunner().invoke(command, options, standalone_mode=False)
    assert done.exception is None, done.output
    assert "Changes since may:" in done.output
    assert "from 3.0 to 3.1" in done.output
