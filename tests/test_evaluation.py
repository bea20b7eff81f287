"""``apibench evaluate`` on tiny networks: what a cell says, and that killed, broken or repeated it says the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from apibench import classifiers, purifiers
from apibench._torch import torch
from apibench.commands.evaluate import evaluate
from apibench.errors import ApibenchError
from apibench.evaluation import attacked, cells, local, measure, protocol, report
from apibench.imageset import ImageSet
from apibench.pixels import to_pixels, to_tensor
from apibench.terminal import run_command
from tests.conftest import paint

RECIPE = """
name = "tiny"
classifiers = ["{target}"]
notes = ["CW: no time"]
[images]
source = "{images}"
max_side = 64
[[transfer]]
attack = "mi-di"
epsilon = [16]
steps = 2
surrogates = ["{surrogate}"]
[[attack]]
name = "mi-fgsm"
epsilon = [2, 64]
steps = 2
[[attack]]
name = "pgd-adaptive"
epsilon = [2]
steps = 1
only_where = "mi-fgsm"
limit = 3
[[purify]]
purifier = "gaussian:3,0.8"
iterations = [1, 3]
[[purify]]
purifier = "resize-pad"
[[aware]]
purify = [{{ purifier = "gaussian:3,0.8", iterations = [3] }}]
epsilon = [2]
steps = 1
limit = 2
"""


def checkpoint(folder: Path, architecture: str, seed: int) -> str:
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(architecture)
    save_file(network.state_dict(), folder / f"{architecture}.safetensors")
    return f"file:{architecture}={folder}/{architecture}.safetensors?size=32&mean=0.5&std=0.5"


def write_recipe(folder: Path) -> Path:
    """A recipe of tiny random networks; the photographs' labels are what the classifier sees in most of them."""
    images = folder / "photographs"
    images.mkdir()
    target, surrogate = checkpoint(folder, "test_resnet", 1), checkpoint(folder, "test_efficientnet", 2)
    classifier = classifiers.load(target)
    lines = ["file,label"]
    for i in range(4):
        pixels = paint(i, 32, 48)
        Image.fromarray(pixels).save(images / f"photo{i}.png")
        seen = int(classifier(to_tensor(pixels)).argmax())
        lines.append(f"photo{i}.png,{seen if i != 1 else (seen + 1) % 1000}")
    (images / "labels.csv").write_text("\n".join(lines) + "\n")
    path = folder / "tiny.toml"
    path.write_text(RECIPE.format(target=target, surrogate=surrogate, images=images))
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("evaluation"))


def run(recipe: Path, out: Path, **options: object) -> local.Evaluated:
    loaded = protocol.load(recipe, out=out, **options)  # type: ignore[arg-type]
    return local.evaluate(local.Evaluation(loaded), lambda _: None)


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    assert run(recipe, out).problems == []
    return out


def results(out: Path) -> dict[str, str]:
    """The cells' files, without what is not compared."""
    return {
        path.name: replace(cells.Cell.from_json(path.read_text()), seconds=0).to_json()
        for path in sorted((out / "cells").glob("*.json"))
    }


def test_a_cell_says_what_the_classifier_says_to_the_purified_eight_bit_image(recipe: Path, whole: Path) -> None:
    name = protocol.load(recipe).classifiers[0]
    classifier = classifiers.load(name)
    found = {cell.key: cell for cell in cells.read_all(whole / "cells")}
    adversarial = ImageSet.load(whole / "sets" / "mi-di-eps16")
    purifier = purifiers.create("gaussian:3,0.8", 3)
    cell = found[cells.Key(classifiers.canonical(name), "mi-di/eps16", purifier.name, 3)]
    assert len(cell.images) == 4
    for record, verdict in zip(adversarial.records, cell.images, strict=True):
        pure = to_pixels(purifier(to_tensor(adversarial.read_pixels(record))))
        assert verdict.predicted == int(classifier(to_tensor(pure)).argmax())
        assert (verdict.id, verdict.source, verdict.label) == (record.id, record.source, record.label)
    clean = found[cells.Key(classifiers.canonical(name), "clean", "none", 0)]
    assert [image.correct for image in clean.images] == [True, False, True, True]
    assert (cell.epsilon, cell.family, clean.epsilon) == (16, "gaussian", None)
    assert "/" not in cell.key.classifier, "no folder of this machine"


def test_classifiers_are_shown_whole_levels_only(whole: Path) -> None:
    shown: list[torch.Tensor] = []

    class Recording(dict[str, torch.nn.Module]):
        device = "cpu"

        def __missing__(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
            return lambda x: (shown.append(x), torch.ones(1, 10))[1]  # type: ignore[func-returns-value]

    images = ImageSet.load(whole / "sets" / "clean")
    record = images.records[0]
    unit = measure.Unit(images, "clean", ("any",), purifiers.create("gaussian:3,0.8"), (1, 2))
    measure._ask(unit, images.read_pixels(record), record, list(unit.cells()), Recording())  # type: ignore[arg-type]
    assert len(shown) == 2
    assert all(torch.equal(x, x.mul(255).round() / 255) for x in shown)


def test_there_is_a_cell_for_every_purifier_under_every_attack_blind_and_aware(whole: Path) -> None:
    keys = [cell.key for cell in cells.read_all(whole / "cells")]
    attacks = {"clean", "mi-di/eps16", "mi-fgsm/eps2", "mi-fgsm/eps64", "pgd-adaptive/eps2"}
    settings = {("none", 0), ("gaussian:3,0.8", 1), ("gaussian:3,0.8", 3), ("resize-pad:0.9", 1)}
    assert {(k.attack, k.purifier, k.passes) for k in keys if not k.aware} == {
        (a, *s) for a in attacks for s in settings
    }
    assert [(k.attack, k.purifier, k.passes) for k in keys if k.aware] == [("pgd-adaptive/eps2", "gaussian:3,0.8", 3)]
    assert list((whole / "partial").iterdir()) == []


def test_an_attack_only_where_another_failed_takes_over_what_that_one_fooled(whole: Path) -> None:
    base = next((whole / "sets").glob("mi-fgsm-eps2--on-*"))
    built = next(p for p in (whole / "sets").glob("pgd-adaptive-eps2--on-*") if "through" not in p.name)
    before = {record.id: record for record in ImageSet.load(base).records}
    after = ImageSet.load(built).records
    assert len(after) == 3
    assert {record.extra["success"] for record in before.values()} == {True, False}, "both kinds are there"
    for record in after:
        fooled = before[record.id].extra["success"]
        assert (record.extra.get("taken_from") == base.name) == fooled
        assert (record.pixels_sha256 == before[record.id].pixels_sha256) or not fooled


def test_a_finished_run_measures_nothing_again(recipe: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in (whole / "cells").iterdir()}
    monkeypatch.setattr(measure, "_ask", lambda *_: pytest.fail("asked again"))
    monkeypatch.setattr(attacked, "attack_pixels", lambda *_: pytest.fail("attacked again"))
    assert run(recipe, whole).problems == []
    assert before == {path: path.stat().st_mtime_ns for path in (whole / "cells").iterdir()}


def test_interrupted_anywhere_it_goes_on_and_ends_with_the_same_results(
    recipe: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = measure._ask

    def failing(unit: measure.Unit, *rest: object) -> object:
        if len(asked) in (2, 9):  # in the middle of a set, twice
            asked.append("interrupted")
            raise KeyboardInterrupt
        asked.append(unit.name)
        return ask(unit, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(measure, "_ask", failing)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path)
    partial = next((tmp_path / "partial").iterdir())
    with partial.open("a") as file:
        file.write('{"id": "photo3", "predicted": {"0"')  # a line that a kill cut short
    run(recipe, tmp_path)
    images = sum(
        len({i.id for i in cell.images}) for cell in cells.read_all(tmp_path / "cells") if cell.key.passes != 3
    )
    aware = 2
    assert len(asked) == images + aware + 2, "no image was asked about twice"
    assert results(tmp_path) == results(whole)


def test_killed_with_9_it_goes_on_and_ends_with_the_same_results(recipe: Path, whole: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from apibench._torch import torch\n"
        "from apibench.evaluation import local, measure, protocol\n"
        "torch.set_num_threads(int(sys.argv[3]))\n"
        "add, lines = measure._Log.add, []\n"
        "def counted(self, *about):\n"
        "    add(self, *about)\n"
        "    lines.append(about)\n"
        "    if len(lines) == 6: os.kill(os.getpid(), signal.SIGKILL)\n"
        "measure._Log.add = counted\n"
        "loaded = protocol.load(Path(sys.argv[1]), out=Path(sys.argv[2]))\n"
        "local.evaluate(local.Evaluation(loaded), print)\n"
    )
    command = [sys.executable, "-c", script, str(recipe), str(tmp_path), str(torch.get_num_threads())]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr.decode()
    assert len(list((tmp_path / "cells").iterdir())) == 1, "one set of four images was done"
    assert len(next((tmp_path / "partial").iterdir()).read_text().splitlines()) == 1 + 2
    run(recipe, tmp_path)
    assert results(tmp_path).keys() == results(whole).keys()
    verdicts = [[json.loads(cell)["images"] for cell in results(out).values()] for out in (tmp_path, whole)]
    assert verdicts[0] == verdicts[1]


def test_the_report_comes_from_the_cells_alone(recipe: Path, whole: Path) -> None:
    report.write(whole)
    made = {path.name: path.read_bytes() for path in whole.iterdir() if path.is_file()}
    for name in made:
        if name != cells.RUN:
            (whole / name).unlink()
    arguments = ["--recipe", str(recipe), "--out", str(whole), "--report-only"]
    assert run_command(evaluate, arguments) == 0
    assert made == {path.name: path.read_bytes() for path in whole.iterdir() if path.is_file()}
    text = made["report.md"].decode()
    assert "CW: no time" in text
    assert "frontier-mi-di-eps16.svg" in made
    assert "| gaussian:3,0.8/3 |" in text


def test_an_image_that_cannot_be_read_is_left_out_and_asked_about_when_it_is_back(recipe: Path, tmp_path: Path) -> None:
    options = {"aware": False, "limit": 3}
    run(recipe, tmp_path, **options)
    attacked_set = tmp_path / "sets" / "mi-di-eps16"
    path = attacked_set / "photo1.png"
    data = path.read_bytes()
    path.write_bytes(b"broken")
    for cell in (tmp_path / "cells").glob("*mi-di-eps16--gaussian*"):
        cell.unlink()
    again = run(recipe, tmp_path, **options)
    assert len(again.problems) == 1
    assert "photo1.png: changed since it was written" in again.problems[0]
    key = next(c.key for c in cells.read_all(tmp_path / "cells") if c.key.purifier == "gaussian:3,0.8" and c.failed)
    path.write_bytes(data)
    assert run(recipe, tmp_path, **options).problems == []
    mended = cells.Cell.from_json((tmp_path / "cells" / key.file).read_text())
    assert ([image.id for image in mended.images], mended.failed) == (["photo0", "photo1", "photo2"], ())


def test_results_of_another_recipe_are_not_mixed_in(
    recipe: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = recipe.with_name("other.toml")
    other.write_text(recipe.read_text().replace('name = "tiny"', 'name = "tiny"\nseed = 7'))
    assert run_command(evaluate, ["--recipe", str(other), "--out", str(whole)]) == 2
    assert "was measured by another recipe (seed: 0 there, 7 now)" in capsys.readouterr().err


def test_shards_make_and_measure_the_whole_together(recipe: Path, whole: Path, tmp_path: Path) -> None:
    from apibench.attacks.stage import Shard

    evaluation = local.Evaluation(protocol.load(recipe, out=tmp_path))
    waiting = [
        local.evaluate(evaluation, lambda _: None, shard=Shard.parse(part)).waiting for part in ("1/2", "2/2", "1/2")
    ]
    assert waiting == [True, True, False]
    assert results(tmp_path) == results(whole)


def changed(recipe: Path, name: str, *changes: tuple[str, str]) -> Path:
    text = recipe.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = recipe.with_name(name)
    path.write_text(text)
    return path


def test_the_report_leaves_out_what_other_recipes_measured(recipe: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    out = tmp_path / "out"
    run(changed(recipe, "fewer.toml", ('[[purify]]\npurifier = "resize-pad"\n', "")), out)
    assert run_command(evaluate, ["--recipe", str(recipe), "--out", str(out), "--report-only"]) == 0
    text = (out / "report.md").read_text()
    assert "Left out: 5 results in this folder that are of other recipes." in text
    assert "resize-pad" not in text + (out / "accuracy.csv").read_text()
    content = json.loads((out / cells.RUN).read_text())
    assert set(content.pop("cells")) < {path.name for path in cells.files(out / "cells")}
    (out / cells.RUN).write_text(json.dumps(content))  # as it was before the recipe's results were listed
    report.write(out)
    assert "resize-pad" in (out / "report.md").read_text()
    assert "Left out" not in (out / "report.md").read_text()


def test_a_run_lists_exactly_the_results_it_makes(whole: Path) -> None:
    assert json.loads((whole / cells.RUN).read_text())["cells"] == [p.name for p in cells.files(whole / "cells")]


def test_what_an_attack_was_built_on_is_part_of_its_recipe(
    recipe: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    shutil.rmtree(next((out / "sets").glob("mi-fgsm-eps2--*")))
    other = changed(recipe, "base.toml", ("epsilon = [2, 64]\nsteps = 2", "epsilon = [2, 64]\nsteps = 3"))
    shutil.rmtree(next((out / "sets").glob("mi-fgsm-eps64--*")))
    assert run_command(evaluate, ["--recipe", str(other), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "pgd-adaptive-eps2" in error
    assert "settings" not in error
    assert "only_where_right.attack.steps: 2 there, 3 now" in error


def test_a_family_can_be_renamed_without_measuring_again(
    recipe: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    monkeypatch.setattr(measure, "_ask", lambda *_: pytest.fail("asked again"))
    run(changed(recipe, "family.toml", ('purifier = "resize-pad"', 'purifier = "resize-pad"\nfamily = "random"')), out)
    families = {(cell.key.purifier, cell.family) for cell in cells.read_all(out / "cells")}
    assert families == {("none", "none"), ("gaussian:3,0.8", "gaussian"), ("resize-pad:0.9", "random")}


def test_a_file_with_the_result_of_another_key_is_refused(whole: Path) -> None:
    cell = next(c for c in cells.read_all(whole / "cells") if c.key.purifier == "resize-pad:0.9")
    alike = replace(cell.key, purifier="resize-pad-0.9")
    assert alike.file == cell.key.file
    assert cells.present(whole / "cells", cell.key, cell.settings, cell.family) == cell
    with pytest.raises(
        ApibenchError, match=r"holds the result of .*resize-pad:0.9/1; that of .*resize-pad-0.9/1 would"
    ):
        cells.present(whole / "cells", alike, cell.settings, cell.family)
