"""kill -9 at random moments of generate and query, then the same command again: same files, one answer an image.

    python benchmarks/kills.py [--rounds 10] [--images 20]

A running emulator keeps a bill of every call it answered. Afterwards the bill is at most the images plus what was in flight
at the kills, each image has exactly one stored answer, the store is sound, and the attacked files are those of an unbroken
run.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from apibench.emulator import Emulator

COMMAND = [sys.executable, "-c", "import sys; from apibench.cli import main; main(sys.argv[1:])"]


def killed(words: list[str], after: float) -> bool:
    """Run a command and kill it after some seconds; False if it had ended by itself."""
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


def hashes(folder: Path) -> dict[str, str]:
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--images", type=int, default=20)
    arguments = parser.parse_args()
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        generate = ["generate", "--images", "pypi:foolbox", "--max-side", "160", "--limit", str(arguments.images)]
        generate += ["--threads", "1", "--clean-out", str(folder / "clean")]
        subprocess.run([*COMMAND, *generate, "--out", str(folder / "whole")], check=True)
        kills = sum(
            killed([*generate, "--out", str(folder / "adv")], draw.uniform(3, 7)) for _ in range(arguments.rounds)
        )
        subprocess.run([*COMMAND, *generate, "--out", str(folder / "adv")], check=True)
        same = hashes(folder / "adv") == hashes(folder / "whole")
        print(f"generate: {kills} kills; files {'the same' if same else 'DIFFERENT'} as those of an unbroken run")

        bill, store = folder / "bill.jsonl", folder / "s.sqlite"
        with Emulator(bill=bill, latency=1.0) as emulator:
            query = ["query", "--provider", "aws", "--emulated", "--endpoint", emulator.url, "--store", str(store)]
            query += ["--images", str(folder / "clean"), "--images", str(folder / "adv"), "--concurrency", "4"]
            kills = 0
            for _ in range(arguments.rounds):
                kills += killed(query, draw.uniform(2.0, 3.5))
                time.sleep(1.5)  # what was in flight is answered and billed before the next start
            subprocess.run([*COMMAND, *query], check=True)
        billed = len(bill.read_text().splitlines())

        with sqlite3.connect(store) as connection:
            answers, distinct = connection.execute("SELECT COUNT(*), COUNT(DISTINCT sha256) FROM responses").fetchone()
            uncertain = connection.execute("SELECT COUNT(*) FROM attempts WHERE outcome = 'uncertain'").fetchone()[0]
            sound = connection.execute("PRAGMA integrity_check").fetchone()[0]
        images = 2 * arguments.images
        print(
            f"query: {kills} kills, 4 at a time; {images} images, {answers} answers of {distinct} images, {uncertain} "
            f"uncertain, bill {billed} (at most {images} + {4 * kills}); integrity: {sound}"
        )
        assert same
        assert answers == distinct == images
        assert images <= billed <= images + uncertain
        assert uncertain <= 4 * kills


if __name__ == "__main__":
    main()
