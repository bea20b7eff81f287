"""The wheel has all that run time needs: built, unpacked, and run from an empty folder without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECK = """
import apibench, sys
from apibench.query import registry
from apibench.query.contract import ProviderError, ProviderOptions
SDKS = ("boto3", "azure", "msrest", "grpc", "clarifai_grpc", "google.cloud", "requests")
assert registry.names() == ["aws", "azure", "clarifai", "google", "local"]
for name in registry.names():
    adapter = registry.adapter(name)
    assert name == "local" or adapter.settings(ProviderOptions()), name  # it is asked with a classifier's name
    try:
        adapter.parse(b"<html>")
    except ProviderError:
        pass
assert not [module for module in SDKS if module in sys.modules], "reading stored answers needs no SDK"
from apibench import data, purifiers, recipe, run
from apibench._torch import torch
assert apibench.__file__.startswith({site!r}), apibench.__file__
assert str(data.root()).startswith({site!r}), data.root()
for name in ("demo.toml", "api-benchmark.toml"):
    recipe.load(recipe.find(name))
assert purifiers.create("ncis", 1)(torch.rand(1, 3, 9, 9)).shape == (1, 3, 9, 9)
from apibench.labels import imagenet
from apibench.query import pricing
assert pricing.price_of_image("aws") == 0.001
from apibench.emulator import vendors
assert len(vendors.wires(vendors.available(), None)) == 6
from apibench.cli import cli; from apibench.terminal import run_command
raise SystemExit(run_command(cli, ["run", "demo.toml", "--dry-run"]))
"""


def test_an_installed_wheel_works_from_an_empty_folder(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    if not (root / "pyproject.toml").is_file():
        pytest.skip("not run from a checkout")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=root, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.startswith(("tests/", "data/"))]
        archive.extractall(site)
    empty.mkdir()
    # The unpacked wheel comes before the checkout; its own entry points are found because its metadata is there too.
    environment = {**os.environ, "PYTHONPATH": str(site)}
    code = CHECK.format(site=str(site))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=empty, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("420 calls to send") == 4
    assert list(empty.iterdir()) == []
