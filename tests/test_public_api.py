"""``from apibench import ...``: light, complete, and with the commands' defaults."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import apibench
from apibench import ApibenchError, Attack, ImageSet, metrics
from apibench._torch import torch
from apibench.cli import cli
from apibench.report import main_table
from tests.conftest import tiny_classifier
from tests.reportmaker import ATTACK, make_store
from tests.storemaker import StoreMaker


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_importing_it_takes_neither_torch_nor_pandas_nor_an_sdk() -> None:
    code = "import sys, apibench; dir(apibench); apibench.ApibenchError; print('\\n'.join(sys.modules))"
    loaded = {name.partition(".")[0] for name in run(code).split()}
    assert not loaded & {
        "torch",
        "numpy",
        "pandas",
        "boto3",
        "grpc",
        "click",
        "jinja2",
        "matplotlib",
        "apibench_adapters",
    }


def test_reading_answers_takes_no_torch(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    code = f"import sys, apibench; apibench.read_answers({str(store)!r}); print('\\n'.join(sys.modules))"
    loaded = {name.partition(".")[0] for name in run(code).split()}
    assert "pandas" in loaded
    assert not loaded & {"torch", "boto3", "matplotlib"}


def test_every_name_is_there_documented_and_known_to_a_type_checker() -> None:
    for name in apibench.__all__:
        found = getattr(apibench, name)
        assert inspect.getdoc(found), name
        assert name in dir(apibench)
    tree = ast.parse(Path(apibench.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.asname or alias.name
        for block in tree.body
        if isinstance(block, ast.If)
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
    assert typed == set(apibench.__all__)
    with pytest.raises(AttributeError, match="no attribute 'attack_everything'"):
        apibench.attack_everything  # noqa: B018


def test_no_name_is_a_module_of_the_package_too() -> None:
    """A module, once imported, would take the function's place."""
    folder = Path(apibench.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert not modules & set(apibench.__all__)


@pytest.mark.parametrize(
    ("function", "command", "renamed"),
    [
        ("open_images", "generate", {}),
        ("generate", "generate", {}),
        ("purify", "purify", {}),
        ("query_images", "query", {"per_second": "rate"}),
        ("write_report", "report", {}),
        ("export_store", "export", {}),
    ],
)
def test_defaults_are_those_of_the_commands(function: str, command: str, renamed: dict[str, str]) -> None:
    asked = cli.commands[command]
    values = asked.make_context(command, [], resilient_parsing=True).params
    required = {option.name for option in asked.params if option.required}
    compared = 0
    for name, parameter in inspect.signature(getattr(apibench, function)).parameters.items():
        option = renamed.get(name, name)
        if option not in values or option in required or parameter.default is inspect.Parameter.empty:
            continue
        default = values[option]
        assert parameter.default == default or (parameter.default, default) == (None, ()), name
        compared += 1
    assert compared >= 1


# --- what each is for ---


def test_an_attack_on_tensors_keeps_its_bound_and_does_not_depend_on_its_batch() -> None:
    x = torch.rand(3, 3, 32, 40, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([1, 2, 3])
    attack = Attack("mi-di", [tiny_classifier(0), tiny_classifier(1)], epsilon=8, steps=3)
    found = attack(x, labels)
    whole = (x * 255).round()
    assert found.shape == x.shape
    assert float(((found * 255).round() - whole).abs().max()) == 8
    assert torch.allclose(attack(x[1:2], labels[1:2]), found[1:2], atol=1.5 / 255)
    assert torch.equal(attack(x, labels), found)


def test_towards_a_class_or_away_from_it() -> None:
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    network, labels = tiny_classifier(0), torch.tensor([1, 2, 3, 4])
    before = network(x).gather(1, labels[:, None]).mean()
    away = Attack("mi", [network], epsilon=16)(x, labels)
    towards = Attack("mi", [network], epsilon=16, targeted=True)(x, labels)
    assert network(away).gather(1, labels[:, None]).mean() < before < network(towards).gather(1, labels[:, None]).mean()


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"name": "mi-dj"}, "dj: no such part"),
        ({"epsilon": 300}, "epsilon must be a whole number"),
        ({"norm": "l2"}, "give epsilon, the radius"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_what_is_no_attack_is_told(about: dict[str, Any], message: str, clean_set: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ApibenchError, match=message):
        Attack(surrogates=[tiny_classifier()], **about)
    if name := about.pop("name", None):
        about["attack"] = name
    with pytest.raises(ApibenchError, match=message):
        apibench.generate(clean_set, tmp_path / "out", **about)


def test_images_are_opened_from_a_set_or_imported(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(ApibenchError, match="say where with clean_out"):
        apibench.open_images(photographs)
    (photographs / "broken.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"not done: .*broken\.png"):
        images = apibench.open_images(photographs, tmp_path / "clean", max_side=48)
    assert [record.label for record in images.records] == [0, 1, 2, 3, 4]
    assert max(record.width for record in images.records) == 48
    assert len(apibench.open_images(tmp_path / "clean", limit=2).records) == 2


def test_a_purifier_by_name_or_as_it_is(clean_set: ImageSet, tmp_path: Path) -> None:
    named = apibench.purify(clean_set, str(tmp_path / "a"), "gaussian", iterations=2)
    made = apibench.purify(clean_set, tmp_path / "b", apibench.create_purifier("gaussian", 2))
    assert [record.sha256 for record in named.records] == [record.sha256 for record in made.records]
    assert named.records[0].variant == "clean+gaussian/2"


def test_providers_are_asked_by_name(clean_set: ImageSet, tmp_path: Path) -> None:
    assert {"aws", "azure", "clarifai", "google", "local"} <= set(apibench.providers())
    with pytest.raises(ApibenchError, match="did you mean aws"):
        apibench.query_images(clean_set, tmp_path / "store.sqlite", "awss", emulated=True)
    assert not (tmp_path / "store.sqlite").exists()


def test_answers_and_outcomes_are_frames(tmp_path: Path) -> None:
    store = make_store(tmp_path, campaigns=("may", "june"))
    answers = apibench.read_answers(store)
    assert isinstance(answers, pd.DataFrame)
    assert len(answers) == 32
    assert len(apibench.read_answers(str(store), "may")) == 16
    attacked = answers[(answers["attack"] == ATTACK) & (answers["purifier"] == "none")]
    assert attacked["label_1"].unique().tolist() == ["Fox"]
    assert not attacked["agrees_top1"].any()
    outcomes = apibench.read_outcomes(store, "may")
    assert outcomes["labels"].map(len).tolist().count(2) == 8
    assert outcomes["labels"].iloc[0][0] == apibench.Label("Dog", 0.9)


def test_a_report_is_written_verified_and_exported(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    written = apibench.write_report(str(store), str(tmp_path / "report"))
    assert written.main_table == main_table(store)
    assert apibench.verify_report(str(store), str(tmp_path / "report")).holds
    with pytest.warns(UserWarning, match="not at hand") as told:
        exported = apibench.export_store(str(store), str(tmp_path / "published"), images=True)
    assert exported.responses == 16
    assert len(told) == 1  # one for all of them
    assert "and 11 more" in str(told[0].message)


def test_a_recipe_is_checked_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(ApibenchError, match="no such recipe file"):
        apibench.run_recipe("nothing.toml")
    (tmp_path / "recipe.toml").write_text('name = "x"\n[query]\nproviders = ["nobody"]\n')
    with pytest.raises(ApibenchError, match="nobody: no adapter"):
        apibench.run_recipe(tmp_path / "recipe.toml", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_keeps_its_recipe_beside_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apibench import recipe as recipes
    from apibench import run as runs
    from apibench.report import provenance

    text = f'name = "x"\nout = "{tmp_path}/out"\n'
    (tmp_path / "mine.toml").write_text(text)
    make_store(tmp_path / "out")
    for stage in ("make_sets", "ask"):
        monkeypatch.setattr(runs, stage, lambda *_: [])
    runs.run(recipes.load(tmp_path / "mine.toml"), print, text.encode())
    assert (tmp_path / "out" / "recipe.toml").read_text() == text
    found = json.loads((tmp_path / "out" / "report" / provenance.NAME).read_text())["recipe"]
    assert found["content"] == {"name": "x", "out": "…/out"}


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"on_uncertain": "x"}, "on_uncertain 'x': must be one of ask-again, stop, insist"),
        ({"on_uncertain": 3}, "on_uncertain 3: must be one of"),
        ({"batch": 0}, "batch 0: must be at least 1"),
        ({"concurrency": 0}, "concurrency 0: must be at least 1"),
        ({"max_calls": -1}, "max_calls -1: must be at least 1"),
        ({"record": "a.json", "replay": "b.json"}, "--replay is what answers"),
        ({"prices": "no-prices.json"}, r"no-prices\.json"),
        ({"replay": "no-cassette.json"}, r"no-cassette\.json"),
    ],
)
def test_what_no_query_can_be_is_told(about: dict[str, Any], message: str, clean_set: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ApibenchError, match=message):
        apibench.query_images(clean_set, tmp_path / "store.sqlite", "aws", **about)
    assert not (tmp_path / "store.sqlite").exists()


def test_a_limit_is_a_count(clean_set: ImageSet) -> None:
    with pytest.raises(ApibenchError, match="limit -1: must be at least 1"):
        apibench.open_images(clean_set.folder, limit=-1)


def test_what_the_query_command_takes_is_handed_on(
    clean_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apibench.query import stage

    asked: list[stage.QuerySettings] = []

    def query_images(sets: object, store: object, query: stage.QuerySettings, **_: object) -> object:
        asked.append(query)
        raise ApibenchError("enough")

    monkeypatch.setattr(stage, "query_images", query_images)
    prices, record, replay = (str(tmp_path / f"{name}.json") for name in ("prices", "record", "replay"))
    for about in (
        {"concurrency": 3, "batch": 2, "on_uncertain": "insist", "prices": prices, "record": record},
        {"replay": replay},
    ):
        with pytest.raises(ApibenchError, match="enough"):
            apibench.query_images(clean_set, tmp_path / "s.sqlite", "aws", **about)
    first, second = asked
    assert (first.concurrency, first.batch, str(first.on_uncertain)) == (3, 2, "insist")
    assert (first.prices, first.record, first.replay) == (Path(prices), Path(record), None)
    assert (second.prices, second.record, second.replay) == (None, None, Path(replay))


def test_recoveries_are_of_one_campaign_and_of_pairs(tmp_path: Path) -> None:
    maker = StoreMaker(tmp_path / "store.sqlite")
    for campaign, back in (("may", 5), ("june", 4)):
        for number in range(10):
            maker.ask(f"{number}", "clean", ["a"], campaign=campaign)
            maker.ask(f"{number}", "mi/eps8", ["b"] if number < 8 else ["a"], campaign=campaign)
            maker.ask(f"{number}", "mi/eps8+p/1", ["a"] if number < back else "failed", campaign=campaign)
    answers = apibench.read_answers(maker.close())
    with pytest.raises(ApibenchError, match=r"recoveries by provider: a photograph stands several times .*campaign"):
        metrics.recoveries(answers, ["provider"])
    found = metrics.recoveries(answers, ["campaign"]).reset_index().set_index("campaign")
    assert set(found.index) == {"may", "june"}
    for campaign, back in (("may", 5), ("june", 4)):
        row = found.loc[campaign]
        assert (row["n"], row["attacked"], row["purified"], row["difference"]) == (back, 0, 1, 1)
