"""The recipes of ``apibench evaluate``: what is refused before anything is made, what comes along, and the attacks there are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from apibench import classifiers, data, purifiers
from apibench.commands.evaluate import evaluate
from apibench.evaluation import attacked, library, local, protocol
from apibench.terminal import run_command
from tests.conftest import paint
from tests.test_evaluation import changed, write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipes"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("name =", "nmae ="), "name: Field required"),
        (('name = "tiny"', 'name = "tiny"\nclassifier = []'), "classifier: Extra inputs are not permitted"),
        (("limit = 3", "limit = 0"), "limit: Input should be greater than or equal to 1"),
        (
            ('only_where = "mi-fgsm"', 'only_where = "apgd-ce"'),
            "only_where: apgd-ce is no attack that stands before it",
        ),
        (("epsilon = [2, 64]", "epsilon = [64]"), "has not all the images, classifiers and epsilons of pgd-adaptive"),
        (('name = "pgd-adaptive"', 'name = "pgd-adaptiv"'), "pgd-adaptiv: no such attack"),
        (("epsilon = [2, 64]", "epsilon = [2, 64.5]"), "mi-fgsm: epsilon must be a whole number of levels"),
        (('"resize-pad"', '"resize-pat"'), "resize-pat: no such purifier"),
        (("[1, 3]", "[3, 3]"), "3 stands in it twice"),
        (('surrogates = ["file:test_efficientnet', 'surrogates = ["file:test_nothing'), "test_nothing"),
        (
            ('"resize-pad"', '"resize-pad/3"'),
            "resize-pad/3: leave the passes out of its name, and write iterations = [3]",
        ),
        (('"resize-pad"', '"ncis:4"'), "ncis:4: leave the passes out of its name, and write iterations = [4]"),
        (('"resize-pad"', '"gaussian:3,0.80"'), "gaussian:3,0.80 and gaussian:3,0.8 are one purifier under two names"),
        (
            ("notes =", 'reference = "ncsi"\nnotes ='),
            "ncsi is the family of none of its purifiers; there are gaussian, resize",
        ),
        (
            ('{ purifier = "gaussian:3,0.8", iterations = [3] }]', '{ purifier = "resize-pad" }]\nattack = "apgd-ce"'),
            "could try the draws of resize-pad:0.9 until one suits it",
        ),
        (
            ('{ purifier = "gaussian:3,0.8", iterations = [3] }]', '{ purifier = "resize-pad" }]\nattack = "square"'),
            "could try the draws of resize-pad:0.9 until one suits it",
        ),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_is_written(
    change: tuple[str, str], reason: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.toml"
    assert change[0] in recipe.read_text()
    wrong.write_text(recipe.read_text().replace(*change, 1))
    assert run_command(evaluate, ["--recipe", str(wrong), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_surrogate_is_no_target_and_images_need_labels(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    surrogate = protocol.load(recipe).transfer[0].surrogates[0]
    arguments = ["--recipe", str(recipe), "--out", str(tmp_path / "out")]
    assert run_command(evaluate, [*arguments, "--target", surrogate]) == 2
    assert "is a surrogate of the transfer attack and one of the classifiers too" in capsys.readouterr().err
    bare = tmp_path / "bare"
    bare.mkdir()
    Image.fromarray(paint(0)).save(bare / "photo.png")
    assert run_command(evaluate, [*arguments, "--images", str(bare)]) == 2
    assert "none of its images has a label" in capsys.readouterr().err
    assert run_command(evaluate, [*arguments[:2], "--out", str(tmp_path / "none"), "--report-only"]) == 2


@pytest.mark.parametrize("name", ["imagenet.toml", "imagenet-paper.toml"])
def test_the_recipes_that_come_along_are_right(name: str) -> None:
    from apibench.evaluation.library import LibraryAttack

    loaded = protocol.load(data.path(f"recipes/{name}"))
    for section in [*loaded.attack]:
        for epsilon in section.epsilons:
            LibraryAttack(section.name, epsilon, section.steps, section.seed)
    for defence in loaded.defences:
        if defence.purifier != "bsn" or (data.root() / "weights" / "bsn.safetensors").is_file():
            for passes in defence.iterations:
                purifiers.create(defence.purifier, passes)
    for classifier in loaded.classifiers:
        classifiers.check(classifier)


@pytest.mark.parametrize("name", ["imagenet.toml", "imagenet-paper.toml"])
def test_no_two_commands_of_a_recipe_s_comments_share_a_folder(name: str) -> None:
    text = "".join(line for line in data.path(f"recipes/{name}").read_text().splitlines(True) if line.startswith("#"))
    commands = [line.strip("# ") for line in text.replace("\\\n#", "").splitlines() if "apibench evaluate" in line]
    folders = [line.partition("--out ")[2].partition(" ")[0] for line in commands]
    assert len(set(folders)) == len(folders) >= 2
    assert all("--labels" in line for line in commands if "ILSVRC" in line)


def test_one_purifier_under_two_names_is_seen_by_what_it_is() -> None:
    def same(one: str, other: str) -> bool:
        return local._identity(purifiers.create(one)) == local._identity(purifiers.create(other))

    weights = data.path("weights/ncis.safetensors")
    assert same("gaussian", "gaussian:5,1")
    assert same("ncis", f"ncis:{weights}")
    assert same("jpeg:50+gaussian/2", "jpeg+gaussian:5/2")
    assert not same("gaussian", "gaussian:5,1.5")
    assert not same("ncis", "ncis-affine")
    assert not same("jpeg:50+gaussian/2", "jpeg:50+gaussian/3")


def test_weights_with_a_plus_in_their_name_are_no_chain(tmp_path: Path) -> None:
    from apibench.evaluation.comparison import Setting

    copy = tmp_path / "a+b.safetensors"
    copy.write_bytes(data.path("weights/ncis.safetensors").read_bytes())
    name = purifiers.create(f"ncis:{copy}").name
    assert attacked.family(name) == "ncis"
    assert Setting("ncis", name, 3).label == f"{name}/3"
    chain = purifiers.create(f"jpeg:50+ncis:{copy}/3").name
    assert attacked.family(chain) == "jpeg+ncis"
    assert Setting("", chain, 1).label == chain


@pytest.mark.parametrize("package", ["foolbox", "pyautoattack"])
def test_a_library_that_is_missing_is_named_before_anything_is_made(
    package: str, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = {"foolbox": "pgd-linf", "pyautoattack": "square"}[package]
    needing = changed(recipe, "needing.toml", ("[[purify]]", f'[[attack]]\nname = "{name}"\nepsilon = [2]\n[[purify]]'))
    monkeypatch.setitem(sys.modules, package, None)
    assert run_command(evaluate, ["--recipe", str(needing), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"apibench: {package}: not installed, and this attack is made with it; run: pip install 'apibench[evaluation]'\n"
    )
    assert not (tmp_path / "out").exists()


def test_an_aware_attack_has_its_own_number_of_steps_unless_told() -> None:
    def steps(attack: str, **about: int) -> int | None:
        aware = [{"purify": [{"purifier": "jpeg:50"}], "attack": attack, "epsilon": [8], **about}]
        loaded = protocol.Protocol.model_validate({"name": "x", "classifiers": ["c"], "aware": aware})
        (one,) = attacked.aware(loaded, {"c": "c"}, {("jpeg:50", 1): purifiers.create("jpeg:50")})
        return one.attack.steps

    assert (steps("pgd-adaptive"), steps("apgd-ce"), steps("autoattack"), steps("square")) == (20, 100, 100, 1000)
    assert steps("apgd-ce", steps=7) == 7


def test_a_reference_is_only_asked_for_where_there_is_a_purifier_and_the_recipe_names_one(recipe: Path) -> None:
    assert "reference" not in recipe.read_text()
    local.Evaluation(protocol.load(recipe))  # the default is of no purifier of it
    text = recipe.read_text()
    bare = recipe.with_name("bare.toml")
    bare.write_text(text[: text.index("[[purify]]")].replace("notes =", 'reference = "ncis"\nnotes ='))
    local.Evaluation(protocol.load(bare))


def test_the_command_lists_the_attacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(evaluate, ["--attacks"]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert [part.strip() for part in head.strip("|").split("|")] == [
        *("attack", "norm", "access", "steps", "library", "paper")
    ]
    assert [row.split("|")[1].strip() for row in rows] == library.names()
    (square,) = (row for row in rows if row.startswith("| square "))
    for part in ("linf", "scores", "1000 queries", "pyautoattack", "arXiv 1912.00049"):
        assert part in square
