"""Recipes: those that come with apibench are right, and a wrong one is refused before any work, with key and reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from apibench import data, recipe, run
from apibench.errors import ApibenchError
from apibench.query import registry


def load(tmp_path: Path, text: str) -> recipe.Recipe:
    path = tmp_path / "r.toml"
    path.write_text(text)
    return recipe.load(path)


@pytest.mark.parametrize("name", ["demo.toml", "demo", "api-benchmark.toml"])
def test_the_recipes_that_come_along_are_right(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = recipe.load(recipe.find(name))
    run.check(loaded)
    assert list(tmp_path.iterdir()) == [], "checking writes nothing"


def test_the_benchmark_asks_four_vendors_live_with_three_treatments() -> None:
    loaded = recipe.load(data.path("recipes/api-benchmark.toml"))
    assert loaded.query.providers == ["aws", "azure", "clarifai", "google"]
    assert not loaded.query.emulated
    assert [variant.folder for variant in run.variants(loaded)] == [
        "clean",
        "ni-si-2-di-eps16",
        "clean+gaussian-4",
        "ni-si-2-di-eps16+gaussian-4",
        "clean+ncis-4",
        "ni-si-2-di-eps16+ncis-4",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "name: Field required"),
        ("name = 3", "name: Input should be a valid string"),
        ('name = "../x"', "name: String should match pattern"),
        ('name = "x"\nnmae = 1', "nmae: Extra inputs are not permitted"),
        ('name = "x"\n[images]\nmax_side = 1', "images.max_side: Input should be greater than or equal to 32"),
        (
            'name = "x"\n[generate]\nepsilon = [8, 300]',
            "generate.epsilon[2]: Input should be less than or equal to 255",
        ),
        ('name = "x"\n[generate]\nepsilon = 8', "generate.epsilon: Input should be a valid list"),
        ('name = "x"\n[generate]\nepsilon = [8, 8]', "generate.epsilon: 8 stands in it twice"),
        ('name = "x"\n[generate]\nattack = "pgd"', "generate.attack: pgd: no such part of an attack; there are"),
        ('name = "x"\n[generate]\nattack = "mi-di:2"', "generate.attack: mi-di:2: di:2: PROBABILITY must be a number"),
        ('name = "x"\n[generate]\nattack = "logit"', "generate: logit is a loss of targeted attacks"),
        ('name = "x"\n[generate]\nepsilon = [2.5]', "generate: epsilon: 2.5 is no whole number of levels"),
        ('name = "x"\n[generate]\nnorm = "l2"', "generate: epsilon: say the radius in l2"),
        ('name = "x"\n[generate]\nnorm = "l1"', "generate.norm: Input should be 'linf' or 'l2'"),
        ('name = "x"\n[generate]\naim = "given"', "generate: targets: a file of targets and aim = 'given' go together"),
        ('name = "x"\n[generate]\ntargets = "t.csv"', "generate: targets: a file of targets and aim = 'given' go"),
        ('name = "x"\n[[purify]]\niterations = [1]', "purify[1].purifier: Field required"),
        ('name = "x"\n[query]\nmax_calls = 0', "query.max_calls: Input should be greater than or equal to 1"),
        ('name = "x"\n[query]\nproviders = ["aws", "aws"]', "query.providers: aws stands in it twice"),
        ('name = "x"\n[query.settings.google]\na = 1', "query.settings.google: google is not in query.providers"),
        ('name = "x"\n[emulator.target]\ngoogle = "n"', "emulator.target.google: google is not in query.providers"),
        ("name = ", "not TOML"),
    ],
)
def test_a_wrong_recipe_is_refused_with_key_and_reason(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ApibenchError) as caught:
        load(tmp_path, text)
    assert reason in str(caught.value)
    assert "r.toml" in str(caught.value)
    assert str(caught.value).count("\n") < 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[images]\nsource = "nowhere"', "nowhere: no such folder"),
        ('[generate]\nsurrogates = ["hub:x"]', "hub:x"),
        ('[generate]\nsurrogates = ["timm:nosuchnet"]', "nosuchnet"),
        ('[generate]\nsurrogates = ["pypi:nosuch"]', "pypi:nosuch"),
        ('[generate]\nsurrogates = ["tf_efficientnet_lite0", "pypi:tf_efficientnet_lite0"]', "named twice"),
        ('[query]\nemulated = true\n[emulator]\ntarget = "timm:nosuchnet"', "nosuchnet"),
        ('[generate]\nsurrogates = ["file:resnet18=missing.pth"]', "missing.pth"),
        ('[generate]\naim = "given"\ntargets = "missing.csv"', "missing.csv"),
        ('[[purify]]\npurifier = "ncsi"', "did you mean ncis?"),
        ('[query]\nproviders = ["awz"]', "did you mean aws?"),
        ("[query.settings.aws]\nMaxLabel = 3", "MaxLabel"),
        ('[query]\nprices = "missing.json"', "missing.json"),
        ('[query]\nemulated = true\n[emulator]\ntarget = "tf_efficientnet_lite0"', "is a surrogate of the attack too"),
        ('[[purify]]\npurifier = "jpeg"\n[[purify]]\npurifier = "jpeg"', "stands in it twice"),
    ],
)
def test_what_would_fail_later_is_found_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load(tmp_path, f'name = "x"\n{text}')
    with pytest.raises(ApibenchError) as caught:
        run.check(loaded)
    assert reason in str(caught.value)
    assert not (tmp_path / "reports").exists()


def test_vendors_without_an_adapter_are_named_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "names", lambda: ["aws"])
    both = load(tmp_path, 'name = "x"\n[query]\nproviders = ["aws", "azure"]')
    assert run.providers(both) == (["aws"], ["azure: left out, there is no adapter for it in this version"])
    with pytest.raises(ApibenchError, match="none of azure has an adapter"):
        run.providers(load(tmp_path, 'name = "x"\n[query]\nproviders = ["azure"]'))


def test_each_provider_may_have_a_network_of_its_own(tmp_path: Path) -> None:
    text = 'name = "x"\n[query]\nproviders = ["aws", "google"]\nemulated = true\n[emulator.target]\naws = "%s"'
    loaded = load(tmp_path, text % "timm:resnet18")
    targets = {name: run.query_settings(loaded, name).target for name in ("aws", "google")}
    assert targets == {"aws": "timm:resnet18", "google": "tf_efficientnet_lite2"}
    with pytest.raises(ApibenchError, match="lite1 is a surrogate of the attack too"):
        run.check(load(tmp_path, text % "tf_efficientnet_lite1"))


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(ApibenchError, match=r"api-benchmark\.toml, demo\.toml"):
        recipe.find("dmeo.toml")
    with pytest.raises(ApibenchError, match="no such recipe"):
        recipe.find("../nowhere/demo.toml")


def test_purifiers_that_differ_in_a_number_have_folders_of_their_own(tmp_path: Path) -> None:
    names = ("gaussian:5,1", "gaussian:5,1.5", "gaussian:5,1.2", "jpeg:50", "jpeg:75")
    text = 'name = "x"\n' + "".join(f'[[purify]]\npurifier = "{name}"\n' for name in names)
    folders = [variant.folder for variant in run.variants(load(tmp_path, text))]
    assert len(set(folders)) == len(folders) == 2 + 2 * len(names)
