"""provenance.json: what a report was made from, and with what, so that it can be made again and held against the first one.

Neither time nor user nor folder of a machine is in it: the same store gives the same bytes, as long as the libraries, apibench's
revision and what lies beside the store (the recipe, the image sets) are the same.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sqlite3
import subprocess
import tomllib
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import apibench
from apibench import metrics, text
from apibench.errors import ApibenchError
from apibench.imageset import MANIFEST, RECIPE, write_atomically
from apibench.labels.match import RULE_VERSION
from apibench.query.schema import see_as_current
from apibench.report import frames

NAME = "provenance.json"
VERSION = 1
RUN_RECIPE = "recipe.toml"  # beside the store, where `apibench run` puts it

LIBRARIES = (
    *("matplotlib", "numpy", "pandas", "pillow", "scipy", "torch"),
    *(
        "azure-cognitiveservices-vision-computervision",
        "boto3",
        "botocore",
        "clarifai-grpc",
        "google-cloud-vision",
        "grpcio",
    ),
)
# What stands before a path in a name: of a classifier ("file:resnet18="), of a purifier ("ncis:"); "C:" and "https://" do not.
_HEAD = r"(?P<head>(?:file:[^=/\\\s]+=|(?!(?:https?|pypi|timm):)[A-Za-z][\w.-]+:)?)"
# A text that is a path, from the root or from a folder above, or begins with one: whatever characters its folders have.
_PATH = re.compile(_HEAD + r"(?=[/\\]|~[^/\\]*[/\\]|\.{1,2}[/\\]|[A-Za-z]:[\\/]).*[/\\]")
# The same within a text. Not of a URL. Only a folder of somebody's is known to go on after a space.
_PART = r"[^\s\"'?#,;:]*[\\/]"
_FOLDER = re.compile(
    r"(?:^|(?<=[=:\s\"'(,\[]))(?:"
    rf"(?:/home|/Users|[A-Za-z]:[\\/]Users)[\\/][^\\/\"'\n:;,]+[\\/](?:{_PART})?"
    rf"|(?:~?/(?!/)|~[\w.-]*/|[A-Za-z]:[\\/](?!/)|file://|\\\\(?=\w)){_PART}"
    rf"|\.{{1,2}}[\\/](?:{_PART})?)"
)
_ADDRESS = re.compile(r"(?:https?|pypi|timm):", re.IGNORECASE)

# What a report is made from; of a call that a crash left without an outcome, what the next opening of the store makes of it.
_ASKED = """
SELECT provider, origin, settings, sha256, COALESCE(outcome, 'uncertain'), sent, COALESCE(billing, 'maybe'), price, request
FROM attempts WHERE campaign = ? ORDER BY id
"""
_ANSWERED = """
SELECT provider, origin, settings, sha256, raw, labels, model_version, latency, price
FROM responses WHERE campaign = ? ORDER BY provider, origin, settings, sha256
"""


@dataclass(frozen=True)
class StoreHashes:
    """What a store is known by: the SHA-256 of the ``file``, and of the ``answers`` of the campaigns that a report is of.

    Answers are calls and raw responses; their hash stays as it is when other campaigns are added.
    """

    file: str
    answers: str

    @classmethod
    def of(cls, store: Path, campaigns: Collection[str]) -> StoreHashes:
        """Of a store that is there. Raises ApibenchError where it cannot be read."""
        return cls(sha256(store), _answers_sha256(store, campaigns))


def _answers_sha256(store: Path, campaigns: Collection[str]) -> str:
    digest = hashlib.sha256()
    try:
        with closing(frames.connect(store)) as connection:
            see_as_current(store, connection)
            connection.execute("BEGIN")
            for campaign in sorted(campaigns):
                digest.update(f"{campaign!a}\n".encode())
                for query in (_ASKED, _ANSWERED):
                    for row in connection.execute(query, (campaign,)):
                        digest.update(f"{row!a}\n".encode())
    except sqlite3.Error as error:
        raise ApibenchError(f"{store}: not a store that apibench can read ({text.plain(error, 120)})") from error
    return digest.hexdigest()


def write(
    out: Path,
    store: Path,
    hashes: StoreHashes,
    folders: Iterable[str],
    written: Sequence[str],
    asked: dict[str, Any],
) -> None:
    """Write the file into a report's folder.

    ``hashes``: of the store; ``folders``: of each image, the folder of its set, as the store has it (relative to it);
    ``written``: the report's files, by their path in ``out``; ``asked``: what the report is of.
    Raises ApibenchError where it cannot be written.
    """
    of_images = list(folders)
    content = {
        "provenance": VERSION,
        "store": {"name": store.name, "sha256": hashes.file, "answers_sha256": hashes.answers},
        "report": asked,
        "apibench": {"version": apibench.__version__, "revision": revision()},
        "versions": versions(),
        "label_rule": RULE_VERSION,
        "bootstrap": {"resamples": metrics.RESAMPLES, "seed": metrics.SEED},
        "recipe": _recipe(store.parent / RUN_RECIPE),
        "images": len(of_images),
        "image_sets": [found for folder in sorted(set(of_images)) if (found := _image_set(store.parent / folder))],
        "files": {name: sha256(out / name) for name in sorted(written)},
    }
    # What came from outside shows on a terminal as what it is, whatever characters it has.
    written_as = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=True)
    write_atomically(out / NAME, written_as.encode() + b"\n")


def read(report: Path) -> dict[str, Any]:
    """What a report's file says; empty where there is none that can be read."""
    try:
        content = json.loads((report / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def versions() -> dict[str, str]:
    """Of Python, and of the libraries and SDKs that are installed here."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def revision() -> dict[str, str | bool] | None:
    """The commit that apibench runs from, and whether files of it were changed since; None where it is no git checkout."""
    root = Path(apibench.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "apibench", "adapters", "data")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changed)}


def without_folders(value: Any) -> Any:
    """The same text, list or table without folders of this machine: of a path from the root, or from a folder above, only its

    last name is left.
    """
    if isinstance(value, str):
        return _FOLDER.sub("…/", _PATH.sub(r"\g<head>…/", value, count=1) if _PATH.match(value) else value)
    if isinstance(value, list | tuple):
        return [without_folders(one) for one in value]
    if isinstance(value, dict):
        return {name: without_folders(one) for name, one in value.items()}
    return value


def recipe_without_folders(value: Any) -> Any:
    """What a recipe says, with only the last name of every path in it, relative ones too: what has a slash and is no address."""
    if isinstance(value, str):
        if _ADDRESS.match(value) or not re.search(r"[/\\]", value):
            return value
        head = re.match(_HEAD, value)
        last = re.split(r"[/\\]+", value.rstrip("/\\"))[-1]
        return f"{head['head'] if head else ''}…/{last if last.strip('.') else ''}"
    if isinstance(value, list):
        return [recipe_without_folders(one) for one in value]
    if isinstance(value, dict):
        return {name: recipe_without_folders(one) for name, one in value.items()}
    return value


def recipe_text(path: Path) -> str | None:
    """A recipe as it may be published, in TOML: what it says, without folders of this machine, and without its comments.

    None where it is no TOML: of that nobody can say what is a path.
    """
    try:
        content = recipe_without_folders(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    tables = {name: value for name, value in content.items() if isinstance(value, dict)}
    lines = [_assigned(name, value) for name, value in content.items() if name not in tables]
    for name, table in tables.items():
        lines += ["", f"[{_key(name)}]", *(_assigned(key, value) for key, value in table.items())]
    return "\n".join(lines).strip() + "\n"


def _assigned(name: str, value: Any) -> str:
    return f"{_key(name)} = {_toml(value)}"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    """A value on one line; a text of JSON is one of TOML, but for one character that only JSON lets stand."""
    if isinstance(value, dict):
        return "{" + ", ".join(_assigned(name, inner) for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool | float) else str(value)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git(root: Path, *words: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *words]
    done = subprocess.run(command, capture_output=True, check=True, timeout=20)  # noqa: S603 - nothing of a user's is in it
    return done.stdout.decode("utf-8", "replace").strip()


def _recipe(path: Path) -> dict[str, Any] | None:
    """The recipe of the run that made the store. ``sha256`` is that of the file as it was."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return {"sha256": sha256(path), "content": json.loads(json.dumps(recipe_without_folders(content), default=str))}
    except (OSError, ValueError):
        return None


def _image_set(folder: Path) -> dict[str, Any] | None:
    """An image set that is at hand: the hash of its manifest, and what it was made by (attack, seed, surrogates, purifier)."""
    if not (folder / MANIFEST).is_file():  # nor a pipe or a device, which a store from elsewhere may come with
        return None
    try:
        digest = sha256(folder / MANIFEST)
    except (OSError, ValueError):
        return None
    try:
        made_by = None if not (folder / RECIPE).is_file() else json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        made_by = None
    return {"name": folder.name, "manifest_sha256": digest, "made_by": without_folders(made_by)}
