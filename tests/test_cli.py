"""The commands as a user runs them: exit codes, resuming after kill -9, and errors of one to three lines."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from apibench.cli import cli
from apibench.emulator import Emulator
from apibench.errors import ApibenchError
from apibench.terminal import parse_settings, run_command
from tests.conftest import paint

Streams = pytest.CaptureFixture[str]
RECIPE = """
name = "small"
[images]
source = "{folder}"
max_side = 96
[generate]
epsilon = [8]
steps = 2
surrogates = ["tf_efficientnet_lite0"]
[[purify]]
purifier = "gaussian"
iterations = [1]
[query]
emulated = true
[emulator]
target = "tf_efficientnet_lite2"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three photographs with labels, in the current directory."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "photos"
    made.mkdir()
    for i in range(3):
        Image.fromarray(paint(i, 96, 96)).save(made / f"p{i}.png")
    (made / "labels.csv").write_text("file,label\n" + "".join(f"p{i}.png,{i}\n" for i in range(3)))
    return made


def apibench(*words: str) -> int:
    return run_command(cli, words)


def start(*words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = "import sys; from apibench.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_whole_run_and_a_second_one_that_does_nothing(folder: Path, tmp_path: Path, capsys: Streams) -> None:
    (tmp_path / "r.toml").write_text(RECIPE.format(folder=folder))
    assert apibench("run", "r.toml", "--dry-run") == 0
    assert "12 calls to send (emulated: costs nothing" in capsys.readouterr().out
    assert not (tmp_path / "reports").exists()

    assert apibench("run", "r.toml") == 0
    said = capsys.readouterr().out
    assert "EMULATED" in said
    assert "pypi:tf_efficientnet_lite2" in said
    out = tmp_path / "reports" / "small"
    for name in ("report.md", "table.csv", "noise.csv", "picture.png", "index.html"):
        assert (out / "report" / name).stat().st_size > 0
    with sqlite3.connect(out / "store.sqlite") as store:
        assert store.execute("SELECT COUNT(*), COUNT(DISTINCT sha256) FROM responses").fetchone() == (12, 12)
        assert store.execute("SELECT DISTINCT origin FROM responses").fetchall() == [("emulated",)]

    before = {path: path.stat().st_mtime_ns for path in (out / "sets").rglob("*") if path.is_file()}
    report = files(out / "report")
    assert apibench("run", "r.toml") == 0
    assert "0 answered with 0 calls, 12 were stored" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (out / "sets").rglob("*") if path.is_file()}
    assert files(out / "report") == report
    assert apibench("run", "r.toml", "--dry-run") == 0
    assert "12 stored, 0 calls to send" in capsys.readouterr().out


def test_four_vendors_with_a_network_each_and_the_table_names_it(folder: Path, tmp_path: Path, capsys: Streams) -> None:
    vendors = ["aws", "azure", "clarifai", "google"]
    text = RECIPE.format(folder=folder).replace("[query]", f"[query]\nproviders = {json.dumps(vendors)}")
    own = '[emulator.target]\ngoogle = "tf_efficientnet_lite1"\naws = "tf_efficientnet_lite2"'
    (tmp_path / "r.toml").write_text(text.partition("[emulator]")[0] + own)
    assert apibench("run", "r.toml") == 0
    said = capsys.readouterr()
    assert said.err == ""
    for name in vendors:
        assert f"query: {name}: 12 answered with 12 calls" in said.out
    rows = [line.split(" | ") for line in said.out.splitlines() if line.startswith("| ")]
    networks = {row[0].strip("| "): row[1].strip() for row in rows[2:]}
    assert networks == {
        "AWS Rekognition (emulated)": "pypi:tf_efficientnet_lite2",
        "Azure Computer Vision (emulated)": "pypi:tf_efficientnet_lite2",
        "Clarifai (emulated)": "pypi:tf_efficientnet_lite2",
        "Google Cloud Vision (emulated)": "pypi:tf_efficientnet_lite1",
    }
    page = (tmp_path / "reports" / "small" / "report" / "index.html").read_text()
    assert all(name in page for name in networks)
    assert "EMULATED" in page
    assert apibench("run", "r.toml") == 0
    assert capsys.readouterr().out.count("0 answered with 0 calls, 12 were stored") == 4


def test_generate_killed_and_started_again_ends_with_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    words = [
        "generate",
        "--images",
        str(folder),
        "--surrogate",
        "tf_efficientnet_lite0",
        "--steps",
        "4",
        "--threads",
        "1",
    ]
    assert apibench(*words, "--out", "whole") == 0
    process = start(*words, "--out", "killed")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("p*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("p*.json")}
    assert kept
    assert not (tmp_path / "killed" / "manifest.jsonl").exists(), "killed too late to show anything"
    again = start(*words, "--out", "killed")
    assert again.wait(120) == 0, again.communicate()[1]
    # A temporary file of the killed process may be left; it has no image's name.
    left = {name: data for name, data in files(tmp_path / "killed").items() if not name.startswith(".")}
    assert left == files(tmp_path / "whole")
    assert kept == {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in kept}


def query(folder: Path, endpoint: str, *words: str) -> list[str]:
    return [
        "query",
        "--provider",
        "aws",
        "--images",
        str(folder),
        "--store",
        "s.sqlite",
        "--endpoint",
        endpoint,
        *words,
    ]


def test_an_endpoint_of_ones_own_gets_no_real_keys_over_http(folder: Path, capsys: Streams) -> None:
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "AKIA" + "X" * 16)
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "x" * 40)
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    with Emulator("tf_efficientnet_lite2") as emulator:
        assert apibench(*query(folder, emulator.url)) == 2
        assert sum(emulator.hits.values()) == 0
    assert "not sent over plain http" in capsys.readouterr().err


def test_the_cap_exits_4_with_one_line_and_goes_on_later(folder: Path, tmp_path: Path, capsys: Streams) -> None:
    words = ["query", "--provider", "aws", "--images", str(folder), "--store", "s.sqlite", "--emulated"]
    assert apibench(*words, "--max-calls", "2") == 4
    streams = capsys.readouterr()
    assert "2 answered with 2 calls" in streams.out
    assert streams.err.count("\n") == 1
    assert "--max-calls 2 reached" in streams.err
    assert apibench(*words, "--max-calls", "2") == 4, "over all starts"
    assert apibench(*words, "--max-calls", "3") == 0
    assert apibench("report", "--store", "s.sqlite", "--out", "report") == 0
    assert (tmp_path / "report" / "report.md").is_file()


def test_without_credentials_nothing_is_done(folder: Path, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    words = ["query", "--provider", "aws", "--images", str(folder), "--store", "s.sqlite"]
    assert apibench(*words) == 2
    assert "AWS_ACCESS_KEY_ID" in capsys.readouterr().err
    assert apibench(*words, "--dry-run") == 0, "a dry run needs no keys"
    assert "3 calls to send (about $0.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("provider", "variables", "extra"),
    [
        ("azure", ("VISION_ENDPOINT", "VISION_KEY"), {}),
        ("azure", ("VISION_KEY",), {"VISION_ENDPOINT": "https://x.cognitiveservices.azure.com"}),
        ("clarifai", ("CLARIFAI_PAT",), {}),
        ("google", ("GOOGLE_API_KEY",), {"NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": "/nonexistent"}),
    ],
)
def test_each_vendor_says_which_keys_it_lacks(
    folder: Path,
    tmp_path: Path,
    capsys: Streams,
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    variables: tuple[str, ...],
    extra: dict[str, str],
) -> None:
    for name in (*variables, "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in extra.items():
        monkeypatch.setenv(name, value)
    words = ["query", "--provider", provider, "--images", str(folder), "--store", "s.sqlite"]
    assert apibench(*words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for name in variables:
        assert name in said
    assert not list(tmp_path.glob("s.sqlite*")), "not even a store is made"
    assert apibench(*words, "--dry-run") == 0, "a dry run needs no keys"
    assert "3 calls to send (about $0.00" in capsys.readouterr().out


def test_a_live_run_without_any_keys_names_every_vendor_before_it_computes(
    folder: Path, tmp_path: Path, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "VISION_", "CLARIFAI_", "GOOGLE_")):
            monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "CLOUDSDK_CONFIG"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    assert apibench("run", "api-benchmark.toml", "--images", str(folder), "--out", "live") == 2
    said = capsys.readouterr()
    for variable in ("AWS_ACCESS_KEY_ID", "VISION_KEY", "CLARIFAI_PAT", "GOOGLE_API_KEY"):
        assert variable in said.err
    assert said.err.count("\n") == 4
    assert not (tmp_path / "live").exists()


def test_a_broken_photograph_is_listed_and_the_rest_is_complete(folder: Path, tmp_path: Path, capsys: Streams) -> None:
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 truncated")
    assert apibench("purify", "--images", str(folder), "--out", "pure", "--purifier", "gaussian") == 3
    assert "broken.jpg" in capsys.readouterr().err
    assert len((tmp_path / "pure" / "manifest.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["generate", "--images", "nowhere", "--out", "x"], "nowhere"),
        (["generate", "--images", "photos", "--out", "x", "--surrogate", "timm:nosuch"], "nosuch"),
        (["generate", "--images", "photos", "--out", "x", "--surrogate", "hub:x"], "hub:x"),
        (["generate", "--images", "photos", "--out", "x", "--epsilon", "0"], "--epsilon"),
        (["generate", "--images", "photos", "--out", "x", "--shard", "3/2"], "3/2"),
        (["generate", "--images", "photos", "--out", "x", "--labels", "nolabels.csv"], "nolabels.csv"),
        (["generate", "--images", "photos", "--out", "x", "--device", "cuda:99"], "cuda:99"),
        (["purify", "--images", "photos", "--out", "x", "--purifier", "bilaterall"], "did you mean bilateral?"),
        (["purify", "--images", "photos", "--out", "photos", "--purifier", "jpeg"], "photos"),
        (["train", "--images", "photos", "--out", "w.safetensors", "--kernel", "4"], "kernel"),
        (["train", "--images", "photos", "--out", "w.safetensors"], "photos"),
        (["query", "--provider", "awz", "--images", "photos", "--store", "s"], "did you mean aws?"),
        (["query", "--provider", "aws", "--images", "photos", "--store", "s", "--setting", "MaxLabels=0"], "MaxLabels"),
        (["query", "--provider", "aws", "--images", "photos", "--store", "s", "--setting", "x"], "KEY=VALUE"),
        (["report", "--store", "missing.sqlite", "--out", "r"], "missing.sqlite"),
        (["report", "--store", "photos/labels.csv", "--out", "r"], "labels.csv"),
        (["run", "missing.toml"], "missing.toml"),
        (["run", "photos/labels.csv"], "labels.csv"),
        (["emulate", "--target", "timm:nosuch"], "nosuch"),
        (["emulate", "--fault", "flood=1"], "flood"),
        (["emulate", "--provider", "azur"], "no provider azur"),
        (["emulate", "--target", "azur=tf_efficientnet_lite2"], "azur=tf_efficientnet_lite2"),
        (
            ["query", "--provider", "google", "--images", "photos", "--store", "s", "--setting", "transport=x"],
            "transport",
        ),
        (
            ["query", "--provider", "azure", "--images", "photos", "--store", "s", "--setting", "language=xx"],
            "language",
        ),
        (
            ["query", "--provider", "aws", "--images", "photos", "--store", "s", "--target", "resnet18"],
            "give --emulated",
        ),
        (["query", "--provider", "aws", "--images", "photos", "--store", "s", "--emulated", "--target", "x=y"], "x=y"),
        (
            ["query", "--provider", "aws", "--images", "photos", "--store", "s", "--emulated", "--target", "nosuch"],
            "nosuch",
        ),
        (["nosuch"], "nosuch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_mistake_is_a_few_lines_and_exit_2(folder: Path, capsys: Streams, words: list[str], culprit: str) -> None:
    assert apibench(*words) == 2
    said = capsys.readouterr().err
    assert culprit in said
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if not line.startswith(("Usage:", "Try ")) and line]) <= 3


def test_a_full_disk_is_one_line(folder: Path, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert apibench("purify", "--images", str(folder), "--out", "pure", "--purifier", "gaussian") == 2
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert said.count("\n") == 1


def test_emulate_serves_until_it_is_stopped_and_keeps_the_bill(tmp_path: Path) -> None:
    process = start("emulate", "--bill", str(tmp_path / "bill.jsonl"))
    assert process.stdout is not None
    line = process.stdout.readline()
    url = next(word.rstrip(",") for word in line.split() if word.startswith("http://127.0.0.1:"))
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "rekognition",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="fake",
        aws_secret_access_key="fake",
        config=Config(proxies={}),
    )
    Image.fromarray(paint(1, 96, 96)).save(tmp_path / "x.png")
    reply = client.detect_labels(Image={"Bytes": (tmp_path / "x.png").read_bytes()}, MinConfidence=1)
    assert reply["LabelModelVersion"] == "emulated/pypi:tf_efficientnet_lite2"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert len((tmp_path / "bill.jsonl").read_text().splitlines()) == 1
    assert json.loads((tmp_path / "bill.jsonl").read_text())["provider"] == "aws"


def test_settings_have_types() -> None:
    assert parse_settings(["a=3", "b=0.5", "c=true", "d=x=y"]) == {"a": 3, "b": 0.5, "c": True, "d": "x=y"}
    with pytest.raises(ApibenchError, match="KEY=VALUE"):
        parse_settings(["=3"])
