"""``apibench attacks``: the table is the catalogue's, and printing it loads no torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from apibench.attacks import catalogue, composition
from apibench.cli import cli
from apibench.terminal import run_command

Streams = pytest.CaptureFixture[str]


def listed(capsys: Streams) -> dict[str, dict[str, object]]:
    assert run_command(cli, ["attacks", "--json"]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_as_json_every_part_says_what_it_is(capsys: Streams) -> None:
    rows = listed(capsys)
    assert set(rows) == set(catalogue.TABLE.names())
    for row in rows.values():
        assert {"name", "kind", "paper", "gradients_per_step"} <= set(row)
        assert row["kind"] in catalogue.KINDS
        assert len(str(row["paper"])) > 20
    assert rows["mi"]["gradients_per_step"] == 1
    assert rows["mi"]["norms"] == ["linf", "l2"]
    assert rows["logit"]["targeted"]
    assert rows["logit"]["not_with"] == ["probs"]
    assert rows["svre"]["only_with"] == ["i", "mi"]
    assert (rows["pi"]["norms"], rows["pi"]["targeted"], rows["pi"]["only_with"]) == (["linf"], False, [])


def test_gradients_are_those_of_an_attack_of_that_part(capsys: Streams) -> None:
    for name, row in listed(capsys).items():
        assert row["gradients_per_step"] == composition.parse(name).gradients_per_step


def test_a_third_partys_part_is_listed_too(capsys: Streams) -> None:
    mine = catalogue.Part("mine", "transform", "nothing", "a paper of one's own, 2026", "nowhere:Nothing", cost=3)
    catalogue.register(mine)
    try:
        assert listed(capsys)["mine"]["gradients_per_step"] == 3
    finally:
        catalogue.TABLE.forget("mine")


def test_for_people_it_says_how_parts_combine_and_which_do_not(capsys: Streams) -> None:
    assert run_command(cli, ["attacks"]) == 0
    said = capsys.readouterr().out
    assert "| `di[:PROBABILITY,SMALLEST]` | `0.9,0.906060606061` | transform" in " ".join(said.split())
    assert "joined by hyphens" in said
    assert "di and ti come last wherever they stand" in said
    assert "- logit: not with probs; targeted attacks only" in said
    for part in catalogue.describe():
        assert not part.only_with or f"- {part.name}: replaces the update itself: only with" in said


def test_it_imports_no_torch() -> None:
    code = (
        "import sys; from apibench.cli import cli; from apibench.terminal import run_command; "
        "code = run_command(cli, ['attacks', '--json']); import apibench.recipe; sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
