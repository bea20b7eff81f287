"""Training the blind-spot network: it learns, and a killed training ends where an unbroken one does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apibench import purifiers
from apibench._torch import torch
from apibench.errors import ApibenchError
from apibench.purifiers import job, training
from apibench.purifiers.blindspot import AFFINE, BlindSpotSettings
from apibench.purifiers.crops import Crops, Photographs
from apibench.purifiers.ncis import load_weights
from apibench.purifiers.presets import PRESETS
from apibench.purifiers.smoothing import Smoothing
from tests.conftest import paint

SETTINGS = training.TrainingSettings(
    network=BlindSpotSettings(layers=3, filters=8), steps=24, batch=2, crop=16, validate_every=8, warmup=4, average=0.8
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "train"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(paint(i, 40, 44)).save(folder / f"{i}.png")
    Image.fromarray(paint(0, 12, 12)).save(folder / "small.png")
    (folder / "broken.jpg").write_bytes(b"no")
    return folder


def test_it_learns_and_the_best_weights_make_a_purifier(folder: Path, tmp_path: Path) -> None:
    summary = training.train(folder, tmp_path / "w.safetensors", dataclasses.replace(SETTINGS, steps=60))
    losses = [entry["validation"] for entry in summary["history"]]
    assert min(losses[1:]) < losses[0]
    assert summary["train"] + summary["validation"] == 12
    assert len(summary["skipped"]) == 2
    purifier = purifiers.create(f"ncis:{tmp_path / 'w.safetensors'}", 1)
    assert purifier.name.startswith("ncis:w#")
    assert purifier(torch.rand(1, 3, 20, 20)).shape == (1, 3, 20, 20)


def test_a_killed_training_ends_where_an_unbroken_one_does(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training.train(folder, tmp_path / "whole.safetensors", SETTINGS)
    real = training.Trainer.train_step

    def killed(self: training.Trainer) -> float:
        if self.step == 13:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(training.Trainer, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        training.train(folder, tmp_path / "broken.safetensors", SETTINGS)
    monkeypatch.setattr(training.Trainer, "train_step", real)
    training.train(folder, tmp_path / "broken.safetensors", SETTINGS)
    assert (tmp_path / "broken.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_a_checkpoint_of_another_training_is_refused(folder: Path, tmp_path: Path) -> None:
    training.train(folder, tmp_path / "w.safetensors", dataclasses.replace(SETTINGS, steps=8))
    with pytest.raises(ApibenchError, match=r"w\.checkpoint: a checkpoint of another training"):
        training.train(folder, tmp_path / "w.safetensors", dataclasses.replace(SETTINGS, steps=8, seed=1))
    (tmp_path / "w.checkpoint").write_bytes(b"rubbish")
    with pytest.raises(ApibenchError, match="not a checkpoint"):
        training.train(folder, tmp_path / "w.safetensors", SETTINGS)


def test_too_few_or_too_small_photographs_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(paint(0, 20, 20)).save(tmp_path / "in" / "a.png")
    with pytest.raises(ApibenchError, match="at least 2 photographs of 32 pixels"):
        training.train(tmp_path / "in", tmp_path / "w.safetensors", SETTINGS)
    with pytest.raises(ApibenchError, match=r"ends in \.safetensors"):
        training.train(tmp_path / "in", tmp_path / "w.pt", SETTINGS)


def test_the_schedule_warms_up_and_decays() -> None:
    rates = [SETTINGS.rate(step) for step in range(SETTINGS.steps)]
    assert max(rates) == pytest.approx(SETTINGS.learning_rate)
    assert rates[0] < rates[3]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] < 0.1 * SETTINGS.learning_rate


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("ncis", {"widths": (0.7, 2.0), "smoothing": Smoothing(7, 1.5)}),
        ("ncis-noise", {"noise": (12.0, 12.0), "noise_width": 1.5}),
        ("ncis-affine", {"network": BlindSpotSettings(layers=3, filters=8, form=AFFINE), "noise": (0.0, 12.0)}),
        ("bsn", {"smoothing": Smoothing(1, 1.0), "noise": (8.0, 8.0)}),
    ],
    ids=["range", "noise", "affine", "bsn"],
)
def test_every_kind_of_training_learns_and_its_weights_load(
    folder: Path, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    settings = dataclasses.replace(SETTINGS, steps=40, crop=10, **changes)
    summary = training.train(folder, tmp_path / "w.safetensors", settings)
    losses = [entry["validation"] for entry in summary["history"]]
    assert min(losses[1:]) < losses[0]
    weights = load_weights(tmp_path / "w.safetensors")
    assert weights.network.settings == settings.network
    assert weights.smoothing == settings.smoothing
    assert weights.kind == kind


def load(folder: Path, settings: training.TrainingSettings) -> Crops:
    return Crops(settings, Photographs.load(folder, settings))


def test_noise_has_the_strength_and_the_width_that_were_asked_for(folder: Path) -> None:
    plain = dataclasses.replace(SETTINGS, smoothing=Smoothing(1, 1.0), batch=64)
    noisy = dataclasses.replace(plain, noise=(0.0, 20.0))
    # The same step draws the same crops, so that the difference is the noise.
    clean, seen = load(folder, plain).of_step(3)[0], load(folder, noisy).of_step(3)[0]
    noise = (seen - clean) * 255
    rms = noise.square().mean(dim=(1, 2, 3)).sqrt()
    assert rms.max() <= 20.5
    assert rms.mean() == pytest.approx(10.0, abs=2.5)
    assert noise.mean().abs() < 0.2

    def correlation(x: torch.Tensor) -> float:
        return float((x[..., 1:] * x[..., :-1]).mean() / x.square().mean())

    assert abs(correlation(noise)) < 0.05
    wide = load(folder, dataclasses.replace(noisy, noise_width=2.0)).of_step(3)[0] - clean
    assert correlation(wide) > 0.5


def test_some_crops_get_no_noise_and_strong_noise_counts_for_less(folder: Path) -> None:
    plain = dataclasses.replace(SETTINGS, smoothing=Smoothing(1, 1.0), batch=64)
    noisy = dataclasses.replace(plain, noise=(6.0, 18.0), noise_share=0.5, balance=3.0)
    batch = load(folder, noisy).of_step(3)
    rms = ((batch.seen - load(folder, plain).of_step(3).seen) * 255).square().mean(dim=(1, 2, 3)).sqrt()
    silent = rms < 1e-3
    assert 20 <= int(silent.sum()) <= 44, "about half of 64"
    assert rms[~silent].min() > 5
    assert batch.weights[silent].eq(1).all()
    # The RMS of the crop with its margin is what was drawn; that of the crop itself is close to it.
    assert torch.allclose(batch.weights, 1 / (1 + (rms / 3) ** 2), rtol=0.3)
    restored = batch.clean + 0.1 * torch.arange(64).view(64, 1, 1, 1)
    expected = sum(float(w) * (0.1 * i) ** 2 for i, w in enumerate(batch.weights)) / 64
    assert float(batch.error(restored)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("bad", [{"noise_share": 0.0}, {"noise_share": 1.5}, {"balance": -1.0}])
def test_shares_and_balances_that_cannot_be_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="share of crops with noise"):
        dataclasses.replace(SETTINGS, **bad)  # type: ignore[arg-type]


def test_a_range_of_widths_is_drawn_anew_every_step(folder: Path) -> None:
    crops = load(folder, dataclasses.replace(SETTINGS, smoothing=Smoothing(7, 1.0), widths=(0.5, 2.0), crop=10))
    m = SETTINGS.network.margin

    def lost(step: int) -> float:
        smooth, clean, _ = crops.of_step(step)
        return float((smooth[..., m:-m, m:-m] - clean).square().mean())

    assert len({round(lost(step), 8) for step in range(4)}) == 4
    assert lost(2) == lost(2)


def test_two_processes_train_what_one_does(folder: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, steps=4, validate_every=2)
    alone = job.train(folder, tmp_path / "one.safetensors", settings)
    together = job.train(folder, tmp_path / "two.safetensors", settings, processes=2)
    assert together["workers"] == 2
    assert together["best"]["validation"] == pytest.approx(alone["best"]["validation"], rel=1e-4)
    one, two = (load_weights(tmp_path / f"{name}.safetensors").network.state_dict() for name in ("one", "two"))
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=1e-3), name


def test_what_a_process_fails_of_is_said_in_its_own_words(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ApibenchError, match="a batch of 2 cannot be shared equally among 3"):
        job.train(folder, tmp_path / "w.safetensors", SETTINGS, processes=3)
    small = dataclasses.replace(SETTINGS, crop=200)
    training.train(folder, tmp_path / "old.safetensors", dataclasses.replace(SETTINGS, steps=1))
    with pytest.raises(
        ApibenchError, match=r"(?s)^\S*old\.checkpoint: a checkpoint of another training.*start afresh\.$"
    ):
        job.train(folder, tmp_path / "old.safetensors", SETTINGS, processes=2)
    with pytest.raises(ApibenchError, match=r"^[^\n]*training needs at least 2 photographs[^\n]*$"):
        job.train(folder, tmp_path / "w.safetensors", small, processes=2)


def test_presets_are_what_the_command_offers_and_the_paper_s_is_the_paper_s() -> None:
    from apibench.commands import train as command

    assert tuple(PRESETS) == command.PRESETS
    for name in PRESETS:
        assert job.settings(name, {}) == PRESETS[name]
    paper = PRESETS["paper"]
    assert (paper.network.layers, paper.network.filters, paper.network.form) == (8, 64, "plain")
    assert (paper.noise, paper.widths) == ((0.0, 0.0), None)
    changed = job.settings("affine", {"filters": 16, "sigma": 2.0, "steps": 5})
    assert (changed.network.filters, changed.network.form, changed.smoothing.sigma) == (16, "affine", 2.0)
    with pytest.raises(ValueError, match="range of widths"):
        job.settings("paper", {"widths": (2.0, 1.0)})


def test_a_training_starts_from_weights_of_the_same_network_only(folder: Path, tmp_path: Path) -> None:
    begun = training.train(folder, tmp_path / "a.safetensors", dataclasses.replace(SETTINGS, steps=40))
    other = dataclasses.replace(SETTINGS, smoothing=Smoothing(5, 0.8), steps=8)
    fresh = training.train(folder, tmp_path / "b.safetensors", other)
    gone_on = training.train(folder, tmp_path / "c.safetensors", other, start=tmp_path / "a.safetensors")
    assert gone_on["start_sha256"] != ""
    assert gone_on["history"][0]["validation"] < fresh["history"][0]["validation"]
    assert begun["best"]["validation"] > 0
    wider = dataclasses.replace(SETTINGS, network=BlindSpotSettings(layers=3, filters=9))
    with pytest.raises(ApibenchError, match=r"a\.safetensors: its network is .*filters=8.*, not .*filters=9"):
        training.train(folder, tmp_path / "d.safetensors", wider, start=tmp_path / "a.safetensors")
