"""The examples run as they are, each in a process of its own, as a reader would run it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples" / "emulator"
NEEDS = {
    "ask_aws.py": ("boto3",),
    "ask_aws_tls.py": ("boto3", "cryptography"),
    "ask_azure_3_2.py": ("azure.cognitiveservices.vision.computervision",),
    "ask_azure_4_0.py": ("azure.ai.vision.imageanalysis",),
    "ask_clarifai.py": ("clarifai_grpc",),
    "ask_google_grpc.py": ("google.cloud.vision",),
    "ask_google_rest.py": ("google.cloud.vision",),
    "test_your_client.py": ("boto3",),
}
PROVIDERS = ("aws", "azure", "clarifai", "google")


def missing(name: str) -> str | None:
    for package in NEEDS[name]:
        try:
            if importlib.util.find_spec(package) is None:
                return package
        except ModuleNotFoundError:
            return package
    return None


def test_every_example_is_run_here() -> None:
    assert {path.name for path in FOLDER.glob("*.py")} == set(NEEDS)


@pytest.mark.parametrize("name", NEEDS)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    if package := missing(name):
        pytest.skip(f"{package} is not installed")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    is_test = name.startswith("test_")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"] if is_test else [sys.executable]
    done = subprocess.run(
        [*command, str(FOLDER / name)], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=180
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    if is_test:
        assert "3 passed" in done.stdout
    else:
        assert "answered by emulated/random-labels-no-classifier" in done.stdout
        assert f"billed: {{'{name.split('_')[1].removesuffix('.py')}': 1}}" in done.stdout
