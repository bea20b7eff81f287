"""Sets made by another library's attacks, from a stand-in of it that needs a GPU, draws its start and breaks the bound."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from apibench._torch import torch
from apibench.distortion import difference, linf
from apibench.errors import ApibenchError
from apibench.evaluation.transfer_sets import open_sets
from apibench.imageset import ImageSet

from .conftest import tiny_classifier

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="benchmarks are in the repository only")

STAND_IN = {
    "__init__.py": "def load_attack_class(name):\n    from . import attacks\n    return getattr(attacks, name)\n",
    "utils.py": """
class EnsembleModel:
    device = "cpu"
    def __init__(self, models):
        self.models = models
    def __call__(self, x):
        return sum(model(x) for model in self.models) / len(self.models)
""",
    "attacks.py": """
import torch
class wild:
    def __init__(self, model_name, epsilon, alpha, epoch, device, random_start=True, reach=3.0, **kwargs):
        self.model, self.epsilon, self.epoch, self.reach, self.inner = self.load_model(model_name), epsilon, epoch, reach, 1
        assert len(model_name) == 2 and alpha == epsilon / epoch
    def __call__(self, data, label):
        delta = (torch.rand(data.shape).cuda() - 0.5) * 0.02
        for _ in range(self.epoch * self.inner):
            delta.requires_grad_()
            loss = torch.nn.functional.cross_entropy(self.model(torch.cat([data + delta] * 2)), label.repeat(2))
            delta = delta.detach() + self.reach * self.epsilon * torch.autograd.grad(loss, delta)[0].sign()
        return delta
""",
}


@pytest.fixture
def peer_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark's module, the stand-in where it looks for the library."""
    package = tmp_path / "clone" / "transferattack"
    package.mkdir(parents=True)
    for name, text in STAND_IN.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    before = {*sys.modules}
    import peer
    import peer_sets as module

    peer.find(tmp_path / "clone")
    monkeypatch.setattr(module, "canonical", lambda name: name)
    # As on a machine without a GPU, wherever this runs.
    monkeypatch.setattr(torch.Tensor, "cuda", lambda *_: pytest.fail("moved to a GPU"))
    yield module
    for name in {*sys.modules} - before:
        if name.partition(".")[0] in ("peer", "peer_sets", "transferattack"):
            del sys.modules[name]


def made(module: ModuleType, clean: ImageSet, out: Path, attack: str) -> ImageSet:
    networks = [module.peer.Counted(tiny_classifier(seed)) for seed in (0, 1)]
    settings = {"seed": 0, "steps": 5, "images": 2, "shard": "1/1", "surrogate": ["a", "b"]}
    arguments = argparse.Namespace(clean=clean.folder, out=out, **settings)
    module.make(module.peer.Attack.parse(attack), 8, networks, arguments)
    (folder,) = out.iterdir()
    return ImageSet.load(folder)


def test_a_set_keeps_the_bound_and_is_one_that_evaluate_takes(
    peer_sets: ModuleType, clean_set: ImageSet, tmp_path: Path
) -> None:
    images = made(peer_sets, clean_set, tmp_path / "out", "wild")
    (name,), photographs = (*open_sets([images.folder], clean_set.folder),)
    assert name == "TransferAttack-wild/eps8"
    for record in images.records:
        before = next(r for r in photographs.records if r.id == record.id)
        assert linf(difference(photographs.read_pixels(before), images.read_pixels(record))) == 8
        # Two networks, five steps, each shown two copies.
        assert record.extra["gradients"] == 20
        assert (record.label, record.source) == (before.label, before.pixels_sha256)


def test_an_image_has_its_own_seed_and_arguments_reach_the_attack(
    peer_sets: ModuleType, clean_set: ImageSet, tmp_path: Path
) -> None:
    first, again = (made(peer_sets, clean_set, tmp_path / out, "wild:reach=0.01") for out in ("one", "two"))
    assert [r.pixels_sha256 for r in first.records] == [r.pixels_sha256 for r in again.records]
    assert all(record.extra["linf"] < 8 for record in first.records)
    twice = made(peer_sets, clean_set, tmp_path / "three", "wild:reach=0.01,inner=2")  # no argument of its class
    assert [record.extra["gradients"] for record in twice.records] == [40, 40]


@pytest.mark.parametrize(
    ("attack", "said"), [("tame", "tame"), ("wild:speed=1", "no speed"), ("wild:reach", "KEY=VALUE")]
)
def test_what_it_has_not_is_named(
    peer_sets: ModuleType, clean_set: ImageSet, tmp_path: Path, attack: str, said: str
) -> None:
    with pytest.raises(ApibenchError, match=said):
        made(peer_sets, clean_set, tmp_path / "out", attack)
