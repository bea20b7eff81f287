"""Training the blind-spot network: it learns, and a killed training ends where an unbroken one does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from apibench import purifiers
from apibench._torch import torch
from apibench.errors import ApibenchError
from apibench.purifiers import training
from apibench.purifiers.blindspot import BlindSpotSettings
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
