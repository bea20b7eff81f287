"""``apibench tune``: the same budget for every family, and the choice that the stated objective asks for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from apibench import data, purifiers
from apibench._torch import torch
from apibench.commands.tune import tune
from apibench.errors import ApibenchError
from apibench.evaluation import measure, tuning
from apibench.evaluation.comparison import NOTHING, Results, Setting, Threat
from apibench.imageset import ImageSet, SetWriter
from apibench.pixels import to_tensor
from apibench.terminal import run_command
from tests.conftest import paint
from tests.test_evaluation import checkpoint
from tests.test_evaluation_tables import cell, first

ATTACK = "mi-di/eps8"


@given(st.sampled_from(sorted(tuning.GRIDS)), st.integers(1, tuning.MOST))
def test_every_family_has_the_same_budget_and_spends_it_over_its_whole_grid(family: str, budget: int) -> None:
    tried = tuning.settings(family, budget=budget)
    grid = tuning.GRIDS[family]
    assert len(tried) == len(set(tried)) == min(budget, len(grid))
    assert [trial for trial in grid if trial in tried] == tried
    if budget > 1:
        assert (tried[0], tried[-1]) == (grid[0], grid[-1])


def test_the_grids_are_of_purifiers_that_there_are() -> None:
    assert all(len(grid) == tuning.MOST for family, grid in tuning.GRIDS.items() if family != "bits")
    for family, grid in tuning.GRIDS.items():
        for name, passes in grid:
            assert purifiers.create(name, passes).name.startswith(family)
    assert set(tuning.families()) <= set(purifiers.names())


@pytest.mark.parametrize("family", sorted(tuning.GRIDS))
def test_a_grid_goes_from_mild_to_strong(family: str) -> None:
    """By how far each setting takes pictures from themselves: not step by step, but in the order of the whole."""
    pictures = torch.cat([to_tensor(paint(seed, 48, 48)) for seed in range(2)])
    far = []
    for name, passes in tuning.GRIDS[family]:
        purifier = purifiers.create(name, passes)
        purifier.seed(0, "x")
        far.append(float((purifier(pictures) - pictures).square().mean()))
    order = stats.spearmanr(range(len(far)), far).statistic
    assert order > 0.95, far


def test_median_and_bilateral_are_sorted_by_their_strength() -> None:
    def numbers(family: str) -> list[tuple[list[float], int]]:
        return [([float(n) for n in name.partition(":")[2].split(",")], count) for name, count in tuning.GRIDS[family]]

    median = [(values[0] - 1) ** 2 * count for values, count in numbers("median")]
    bilateral = [values[1] * values[2] for values, _ in numbers("bilateral")]
    assert median == sorted(median)
    assert bilateral == sorted(bilateral)


def test_weights_share_a_family_s_budget() -> None:
    tried = tuning.settings("ncis", [Path("a"), Path("b")], 5)
    assert tried == [("ncis:a", 1), ("ncis:b", 1), ("ncis:a", 2), ("ncis:b", 2), ("ncis:a", 3)]
    with pytest.raises(ApibenchError, match="jpeg has no weights"):
        tuning.settings("jpeg", [Path("a")])
    with pytest.raises(ApibenchError, match="jpg: no such family"):
        tuning.settings("jpg")
    for wrong in ("ncis", "ncis=", "x=y", "ncis=/nowhere.safetensors"):
        with pytest.raises(ApibenchError, match="--weights"):
            tuning.parse_weights([wrong])


def results() -> Results:
    """90 % without a purifier; of 50 images, right clean and right attacked by setting."""
    scores = {
        NOTHING: (45, 2),
        Setting("ncis", "ncis", 1): (44, 10),
        Setting("ncis", "ncis", 2): (43, 20),
        Setting("ncis", "ncis", 4): (35, 30),
        Setting("jpeg", "jpeg:90", 1): (45, 8),
        Setting("jpeg", "jpeg:50", 1): (43, 12),
        Setting("jpeg", "jpeg:10", 1): (20, 25),
        Setting("tv", "tv:0.5", 1): (30, 22),
    }
    return Results(
        [cell("a", a, s, first(n)) for s, pair in scores.items() for a, n in zip(("clean", ATTACK), pair, strict=True)]
    )


def chosen(objective: tuning.Objective, max_cost: float = 0.05) -> dict[str, str | None]:
    choices = tuning.choose(results(), Threat(ATTACK), objective, max_cost, "ncis")
    return {choice.family: choice.setting.label if choice.setting else None for choice in choices}


def test_the_choice_is_the_most_robust_that_costs_little_enough() -> None:
    assert chosen("cost") == {"ncis": "ncis/2", "jpeg": "jpeg:50/1", "tv": None}
    assert chosen("cost", 0.02) == {"ncis": "ncis/1", "jpeg": "jpeg:90/1", "tv": None}
    assert chosen("cost", 0.30) == {"ncis": "ncis/4", "jpeg": "jpeg:50/1", "tv": "tv:0.5/1"}
    assert chosen("matched") == {"ncis": "ncis/2", "jpeg": "jpeg:50/1", "tv": None}
    assert chosen("matched", 0.02) == {"ncis": "ncis/1", "jpeg": "jpeg:50/1", "tv": None}, "within two points of its"
    why = {c.family: c.why for c in tuning.choose(results(), Threat(ATTACK), "cost", 0.05, "ncis")}
    assert why["tv"] == "none loses at most 5 points; tv:0.5/1 loses 30.0"
    with pytest.raises(ApibenchError, match="none loses at most 0 points"):
        chosen("matched", 0.0)


@pytest.fixture
def sets(tmp_path: Path) -> tuple[ImageSet, ImageSet]:
    clean, adversarial = SetWriter(tmp_path / "val", {"a": 1}), SetWriter(tmp_path / "adv", {"a": 2})
    for i in range(3):
        record = clean.write(f"p{i}", paint(i, 32, 40), variant="clean", label=i, label_source="given")
        adversarial.write(f"p{i}", paint(i + 9, 32, 40), variant=ATTACK, source=record.source, label=i)
    made = [writer.finish(f"p{i}" for i in range(3)) for writer in (clean, adversarial)]
    assert made[0] is not None
    assert made[1] is not None
    return made[0], made[1]


def test_tuning_writes_its_choice_and_goes_on_where_it_was(
    sets: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments = ["--clean", str(sets[0].folder), "--adversarial", str(sets[1].folder), "--out", str(out)]
    arguments += ["--target", checkpoint(tmp_path, "test_resnet", 1), "--budget", "2", "--max-cost", "100"]
    arguments += ["--purifier", "gaussian", "--purifier", "bits"]
    ask, asked = measure._ask, []

    def interrupted(*about: object) -> object:
        asked.append(about)
        if len(asked) == 8:
            raise KeyboardInterrupt
        return ask(*about)  # type: ignore[arg-type]

    monkeypatch.setattr(measure, "_ask", interrupted)
    assert run_command(tune, arguments) == 130
    assert run_command(tune, arguments) == 0
    assert len(asked) == 3 * 2 * 5 + 1, "nothing twice: two sets of three behind nothing and four settings"
    choice = json.loads((out / "choice.json").read_text())
    assert choice["objective"].startswith("the highest robust accuracy with at most 100 points")
    assert choice["tried"] == {"gaussian": 2, "bits": 2}
    assert choice["choices"]["bits"]["use"] == choice["choices"]["bits"]["purifier"]
    curve = (out / "curve.csv").read_text().splitlines()
    assert len(curve) == 1 + 5
    assert sum(line.endswith(",1") for line in curve) == 2
    assert (out / "frontier.svg").read_text().startswith("<svg")
    written = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    assert run_command(tune, arguments) == 0
    assert written == {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}


def test_a_plus_in_the_path_of_weights_ends_no_part_of_a_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = Path("a+b") / "narrow.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(data.path("weights/ncis-affine.safetensors").read_bytes())
    (trial,) = tuning.settings("ncis-affine", [weights], 1)
    assert purifiers.create(*trial).iterations == 1


def test_the_choice_says_how_its_purifier_is_made_again(sets: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    weights = tmp_path / "narrow.safetensors"
    weights.write_bytes(data.path("weights/ncis.safetensors").read_bytes())
    arguments = ["--clean", str(sets[0].folder), "--adversarial", str(sets[1].folder), "--out", str(tmp_path / "out")]
    arguments += ["--target", checkpoint(tmp_path, "test_resnet", 1), "--budget", "1", "--max-cost", "100"]
    assert run_command(tune, [*arguments, "--purifier", "ncis", "--weights", f"ncis={weights}"]) == 0
    choice = json.loads((tmp_path / "out" / "choice.json").read_text())["choices"]["ncis"]
    assert choice["use"] == f"ncis:{weights}"
    assert purifiers.create(choice["use"], choice["passes"]).name == choice["purifier"] != choice["use"]


def test_a_reference_that_is_not_tuned_is_refused_before_anything_is_measured(
    sets: tuple[ImageSet, ImageSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--clean", str(sets[0].folder), "--adversarial", str(sets[1].folder), "--out", str(tmp_path / "out")]
    arguments += ["--target", checkpoint(tmp_path, "test_resnet", 1), "--purifier", "bits", "--objective", "matched"]
    assert run_command(tune, arguments) == 2
    assert "--reference ncis: is not among bits" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_sets_that_do_not_belong_together_are_refused(
    sets: tuple[ImageSet, ImageSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = checkpoint(tmp_path, "test_resnet", 1)
    stranger = SetWriter(tmp_path / "stranger", {"a": 3})
    stranger.write("p0", paint(77, 32, 40), variant=ATTACK, source="0" * 64, label=1)
    stranger.finish(["p0"])
    for clean, adversarial, reason in (
        ("adv", "adv", "--clean must be a clean set"),
        ("val", "val", "must be images of one attack"),
        ("val", "stranger", "none of its images was made from one of"),
    ):
        folders = ["--clean", str(tmp_path / clean), "--adversarial", str(tmp_path / adversarial)]
        assert run_command(tune, [*folders, "--out", str(tmp_path / "out"), "--target", target]) == 2
        assert reason in capsys.readouterr().err
