"""The example of a provider in a package of its own: installed as a user would, and asked by the command line."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from apibench.imageset import ImageSet
from tests.servers import http, http_server

EXAMPLE = Path(__file__).parent.parent / "examples" / "provider"
BODY = json.dumps({"labels": [{"name": "Dog", "score": 0.9}, {"name": "Cat", "score": 0.05}]}).encode()
KEY = "synthetic" + "-key-0123456789"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed (extra 'dev'): it builds the example")
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", target, EXAMPLE], check=True)
    return target


def apibench(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"PYTHONPATH": str(site), "EXAMPLE_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from apibench.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_an_installed_package_is_found_and_asked(installed: Path, clean_set: ImageSet, tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    with http_server(http("200 OK", BODY)) as (url, hits):
        asked = ("query", "--provider", "example", "--images", clean_set.folder, "--store", store, "--endpoint", url)
        done = apibench(installed, *asked)
        assert done.returncode == 0, done.stderr
        assert len(hits) == 5
        assert apibench(installed, *asked).returncode == 0
        assert len(hits) == 5, "an image with a stored answer is never sent again"
    assert f"authorization: bearer {KEY}".encode() in hits[0].lower()
    assert b"\x89PNG" in hits[0]
    with sqlite3.connect(store) as connection:
        rows = connection.execute("SELECT provider, origin, raw FROM responses").fetchall()
    assert rows == [("example", "custom", BODY)] * 5
    assert KEY.encode() not in store.read_bytes()
    assert KEY not in done.stdout + done.stderr


def test_its_mistakes_are_one_line(installed: Path, clean_set: ImageSet, tmp_path: Path) -> None:
    asked = ("query", "--provider", "example", "--images", clean_set.folder, "--store", tmp_path / "s.sqlite")
    wrong = apibench(installed, *asked, "--setting", "size=3")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "size: no setting of example; there is top" in wrong.stderr
    with http_server(http("401 No", b'{"error": "no such key: %s"}' % KEY.encode())) as (url, hits):
        refused = apibench(installed, *asked, "--endpoint", url, "--concurrency", 1)
    assert (refused.returncode, len(hits)) == (2, 1)
    assert "HTTP 401" in refused.stderr
    assert KEY not in refused.stdout + refused.stderr
    assert KEY.encode() not in (tmp_path / "s.sqlite").read_bytes()
