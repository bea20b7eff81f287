"""``apibench emulate``: its options reach the emulator, its mistakes are named, and at its end it says what it counted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path

import pytest

from apibench.cli import main
from tests.emulation import picture

pytest.importorskip("boto3")
CODE = """
import sys
from apibench.cli import main
try:
    main(sys.argv[1:])
finally:
    print("torch" in sys.modules)
"""


def tag(port: int, key: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Ocp-Apim-Subscription-Key": key, "Content-Type": "application/octet-stream"}
    try:
        connection.request("POST", "/vision/v3.2/tag", picture(), headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_all_of_it_in_one_process_without_torch(tmp_path: Path) -> None:
    bill = tmp_path / "bill.jsonl"
    bill.write_text(json.dumps({"provider": "aws"}, separators=(",", ":")) + "\n")
    words = ["emulate", "--provider", "aws", "--provider", "azure", "--answers", "random", "--bill", str(bill)]
    words += ["--script", "azure=throttle,503,ok*3", "--fault", "azure=500=1", "--latency", "azure=uniform:0.01,0.02"]
    words += ["--rate-limit", "azure=1000", "--check-keys", "--key", "azure=S3CRET"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", CODE, *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        port = int(lines[0].partition("http://127.0.0.1:")[2].partition(",")[0])
        seen = [tag(port, key) for key in ("S3CRET", "S3CRET", "S3CRET", "EMULATED", "S3CRET", "S3CRET")]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert seen == [429, 503, 200, 401, 200, 500]
    assert all("answered by random-labels-no-classifier, keys are checked" in line for line in lines[:3])
    assert lines[3] == "stop with Ctrl-C\n"
    assert "6 requests: " in out
    assert "answered 2" in out
    assert out.splitlines()[-2:] == ["billed images: aws 1, azure 2", "False"]
    assert "S3CRET" not in "".join(lines) + out


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["--script", "ok,flood"], "'flood'"),
        (["--script", "ok*x"], "KIND*COUNT"),
        (["--script", "ok", "--script", "drop"], "--script drop: it is given twice for all"),
        (["--script", "aws=ok", "--script", "aws=drop"], "it is given twice for aws"),
        (["--fault", "aws=flood=1"], "'flood'"),
        (["--fault", "slow:x=1"], "no number of seconds"),
        (["--latency", "gamma:1"], "latency 'gamma:1': write SECONDS"),
        (["--latency", "aws=-1"], "latency '-1'"),
        (["--rate-limit", "many"], "--rate-limit many: write N or PROVIDER=N"),
        (["--rate-limit", "acme=3"], "--rate-limit acme=3"),
        (["--rate-limit", "aws=0"], "rate limit 0"),
        (["--key", "S3CRET"], "--key: write PROVIDER=KEY"),
        (["--key", "aws=S3CRET"], "--key aws: write aws=ID:SECRET"),
        (["--key", "azure="], "--key azure: write azure=KEY"),
        (["--answers", "random", "--target", "tf_efficientnet_lite2"], "--target"),
        (["--answers", "none"], "none"),
        (["--answers", "random", "--provider", "aws", "--tls", "/dev/null/ca.pem"], "/dev/null/ca.pem"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_named(words: Sequence[str], culprit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["emulate", *words])
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert culprit in said
    assert "Traceback" not in said
    assert "S3CRET" not in said
