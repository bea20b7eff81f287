"""kill -9 at random moments of generate, then the same command again: the files are those of an unbroken run.

    python benchmarks/kills.py [--rounds 10] [--images 20]

Of ``query``: query_chaos.py.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

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
        assert same


if __name__ == "__main__":
    main()
