"""Reports for tests: of small stores with what AWS would say, ways to change them, and to forge what stands beside."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from apibench.imageset import encode_png
from apibench.query.contract import Label
from apibench.report import page, provenance
from apibench.report.verify import Verification
from tests.conftest import paint
from tests.storemaker import StoreMaker

ATTACK = "mi-di/eps16"
SAID = {"clean": ["Dog", "Cat"], ATTACK: ["Fox", "Dog"], f"{ATTACK}+ncis/2": ["Dog"], "clean+ncis/2": ["Dog"]}
Streams = pytest.CaptureFixture[str]


def raw(names: list[str]) -> bytes:
    """What AWS Rekognition says of an image."""
    labels = [{"Name": name, "Confidence": 90 - 10 * rank, "Parents": []} for rank, name in enumerate(names)]
    return json.dumps({"Labels": labels, "LabelModelVersion": "3.0"}).encode()


def make_store(folder: Path, *, images: bool = False, campaigns: tuple[str, ...] = ("default",)) -> Path:
    """Four photographs, an attack and a purifier, answered by what looks like AWS; with ``images`` their files too.

    To a store that is there, campaigns are added.
    """
    folder.mkdir(parents=True, exist_ok=True)
    maker = StoreMaker(folder / "store.sqlite")
    for campaign in campaigns:
        for number, source in enumerate("ABCD"):
            for variant, names in SAID.items():
                data = b""
                where = "sets/" + variant.replace("/", "-")
                if images:
                    data = encode_png(paint(number + 10 * len(variant), 24, 32))
                    (folder / where).mkdir(parents=True, exist_ok=True)
                    (folder / where / f"{source}.png").write_bytes(data)
                labels = [Label(name, (90 - 10 * rank) / 100) for rank, name in enumerate(names)]
                about = {"raw": raw(names), "version": "3.0", "folder": where, "file": f"{source}.png"}
                maker.ask(source, variant, labels, provider="aws", data=data, campaign=campaign, **about)  # type: ignore[arg-type]
    return maker.close()


def change(store: Path, *statements: str) -> None:
    with closing(sqlite3.connect(store)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def replace(path: Path, old: str, new: str) -> None:
    content = path.read_text(encoding="utf-8")
    assert old in content
    path.write_text(content.replace(old, new, 1), encoding="utf-8")


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def names(found: Verification) -> set[str]:
    """The files that differ."""
    return {line.partition(",")[0].partition(":")[0] for line in found.differences}


def forge(report: Path) -> None:
    """Let the provenance say of every file that it is the one that was written."""
    content = provenance.read(report)
    written = (path for path in report.rglob("*") if path.is_file() and path.name != provenance.NAME)
    content["files"] = {path.relative_to(report).as_posix(): provenance.sha256(path) for path in written}
    (report / provenance.NAME).write_text(json.dumps(content))


def many(folder: Path) -> Path:
    """As many photographs as a page does not show at first, with their files."""
    maker = StoreMaker(folder / "store.sqlite")
    for number in range(page.SHOWN + 2):
        for variant, said in (("clean", ["Dog"]), (ATTACK, ["Fox"])):
            data, where = encode_png(paint(number + len(variant), 24, 32)), variant.replace("/", "-")
            (folder / where).mkdir(exist_ok=True)
            (folder / where / f"{number:02}.png").write_bytes(data)
            about = {"raw": raw(said), "version": "3.0", "folder": where, "file": f"{number:02}.png"}
            labels = [Label(name, 0.9) for name in said]
            maker.ask(f"{number:02}", variant, labels, provider="aws", data=data, **about)  # type: ignore[arg-type]
    return maker.close()
