"""What long work says of itself where nobody sees a bar."""

from __future__ import annotations

import pytest

from apibench import progress
from apibench.progress import Progress


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 1000, 20))  # each look at the clock is 20 seconds after the one before
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    bar = Progress(["a", "b", "c", "d"], "attack", unit="image")
    assert list(bar) == ["a", "b", "c", "d"]
    bar.note("loss 3")
    bar.advance(2)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["attack: 2 of 4 (image)", "attack: 4 of 4 (image)", "attack: 6 of 4 (image), loss 3"][: len(lines)]
    assert len(lines) >= 2


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert sum(Progress([1, 2, 3], "add")) == 6
    assert capsys.readouterr().err == ""


def test_a_log_hears_of_the_end_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with Progress(range(5), "query aws", unit="image") as bar:
        bar.advance(2)
        monkeypatch.setattr(progress, "EVERY", 1000.0)
        bar.advance(2)
        bar.advance(1)
    assert capsys.readouterr().err.splitlines() == ["query aws: 2 of 5 (image)", "query aws: 5 of 5 (image)"]
