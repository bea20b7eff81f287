"""Reading the tables, and comparing an adapter's outcomes with what a table expects.

A case is a JSON object: ``name``; the reply as ``status``, ``headers`` and one of ``json``, ``text``, ``base64`` (over gRPC
``json`` is the message in protobuf's JSON form, and ``rpc`` a status instead of a message: ``code``, ``message``, ``trailers``);
``images``, how many were sent (1); and ``expect``, one outcome an image:

- an answer: ``labels`` (a list of ``[name, score, id]``, or with ``parents`` as a fourth), ``model_version``, ``request_id``;
- an error: ``error`` (its kind) and, where given, ``code``, ``status``, ``retry_after``, ``uncertain`` and ``message`` (a part
  of it).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from apibench.query.contract import Adapter, Answer, EncodedImage, Outcome, ProviderError

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    name: str
    expect: list[dict[str, Any]]
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    json: Any = None
    text: str | None = None
    base64: str | None = None
    rpc: dict[str, Any] | None = None
    images: int = 1

    @property
    def body(self) -> bytes:
        """The body over HTTP."""
        if self.base64 is not None:
            return base64.b64decode(self.base64)
        return self.text.encode() if self.text is not None else json.dumps(self.json).encode()

    @property
    def sent(self) -> list[EncodedImage]:
        """The images of the request that this is the reply to."""
        return [EncodedImage(b"\x89PNG pretend %d" % number, f"{number:064d}") for number in range(self.images)]


def table(name: str) -> list[Any]:
    """The cases of ``NAME.json``, as parameters of a test."""
    content = json.loads((_HERE / f"{name}.json").read_text(encoding="utf-8"))
    assert "synthetic" in content["note"].lower(), "a table says where its responses come from"
    cases = [Case(**case) for case in content["cases"]]
    assert len({case.name for case in cases}) == len(cases), "no name twice"
    return [pytest.param(case, id=case.name) for case in cases]


def check(case: Case, outcomes: Sequence[Outcome], adapter: Adapter) -> None:
    """Compare outcomes with what the case expects; an answer's raw response must read the same again."""
    assert len(outcomes) == len(case.expect)
    for outcome, expected in zip(outcomes, case.expect, strict=True):
        if "error" in expected:
            _check_error(outcome, expected)
        else:
            assert isinstance(outcome, Answer), outcome
            _check_answer(outcome, expected)
            assert adapter.parse(outcome.raw) == outcome.parsed


def _check_answer(answer: Answer, expected: dict[str, Any]) -> None:
    labels = answer.parsed.labels
    assert [label.name for label in labels] == [row[0] for row in expected["labels"]]
    assert [label.score for label in labels] == pytest.approx([row[1] for row in expected["labels"]], abs=1e-6)
    assert [label.id for label in labels] == [row[2] for row in expected["labels"]]
    assert [list(label.parents) for label in labels] == [row[3] if len(row) > 3 else [] for row in expected["labels"]]
    assert answer.parsed.model_version == expected.get("model_version")
    assert answer.request_id == expected.get("request_id", answer.request_id)


def _check_error(outcome: Outcome, expected: dict[str, Any]) -> None:
    assert isinstance(outcome, ProviderError), outcome
    assert outcome.kind.value == expected["error"], outcome.message
    for name in ("code", "status", "retry_after", "uncertain"):
        if name in expected:
            assert getattr(outcome, name) == expected[name], name
    assert expected.get("message", "") in outcome.message
    assert "\n" not in outcome.message
    assert outcome.message
