"""Is a report what its store says? It is made again, from the raw responses, and held against what is there.

Compared are all tables (CSV, Markdown, LaTeX) and ``report.md``, to the byte, but for the line that names versions of libraries.
What is made from the image files (pictures, the page, the noise of the attack) is compared where they are at hand. Whatever is
compared, every file has to be the one that was written (its hash is in ``provenance.json``), and there may be no other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from apibench import text
from apibench.errors import ApibenchError
from apibench.query import registry
from apibench.query.contract import ProviderError
from apibench.query.store import ResponseStore
from apibench.report import differences, provenance, write_report
from apibench.report.picture import sent_file

TABLES = frozenset({".csv", ".md", ".tex"})
DOCUMENT = "report.md"
# What is made from pixels: tables by the beginning of their name, sections of the document by their title.
OF_IMAGES = ("noise",)
SECTIONS_OF_IMAGES = ("## Picture", "## Noise of the attack", "## Figures")
# What may differ between two machines without any number being another one; it is told, and nothing more.
_NUMBER = r"\d[\w.+!-]*"
_VERSIONS = re.compile(rf"- apibench {_NUMBER}; numpy {_NUMBER}, pandas {_NUMBER}, pillow {_NUMBER}, scipy {_NUMBER}\.")
_STORE = re.compile(r"- Store `[^`]*`, SHA-256 `([0-9a-f]{64})`\.")
_SAME = ("provenance", "label_rule", "bootstrap", "store", "report")  # of provenance.json
_TOLD = ("apibench", "versions")  # of it, too
_DRAWN_WITH = ("matplotlib", "numpy", "pillow")
PAGE = "index.html"
_OTHER_HASH = f"changed since it was written ({provenance.NAME} has another hash)"


@dataclass(frozen=True)
class Verification:
    """``differences``: a line a file; ``notes``: what was not compared, and why; ``compared``: the files that were."""

    compared: tuple[str, ...]
    differences: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.differences


def verify_report(
    store: Path, report: Path, campaign: str | None = None, *, against: str | None = None
) -> Verification:
    """Make the report again in a temporary folder and compare; nothing is written into ``report`` or the store.

    ``campaign``: the one the report is of; None: those its provenance names, whatever campaigns the store has besides by now.
    ``against``: what it was set against, if it was.
    Raises ApibenchError where there is no such folder, the store cannot be read, or ``against`` is missing.
    """
    if not report.is_dir():
        raise ApibenchError(
            f"{report}: there is no such folder; 'apibench report --store {store} --out {report}' makes it"
        )
    about = provenance.read(report).get("report")
    about = about if isinstance(about, dict) else {}
    if against is None and isinstance(other := about.get("against"), dict):
        known = [(name, value) for name, value in sorted(other.items()) if not name.endswith("sha256")]
        what = ", ".join(f"{name} {text.plain(value, 60)}" for name, value in known)
        raise ApibenchError(f"{report}: was set against {what}; name that with --against")
    campaign, other = _selected(store, about, campaign)
    unread = _unread(store, campaign)
    with TemporaryDirectory(prefix="apibench-verify-") as folder:
        again = Path(folder) / "report"
        write_report(store, again, campaign, against)
        comparison = _Comparison(store, report, again, campaign, of_another=bool(other))
        comparison.run()
    found = (*([other] if other else []), *unread, *comparison.differences)  # the cause of all else comes first
    return Verification(tuple(comparison.compared), found, tuple(comparison.notes))


def _selected(store: Path, about: dict[str, Any], given: str | None) -> tuple[str | None, str]:
    """The campaign to make again (None: all), and a line where that cannot be what the report was made for."""
    named, campaigns = about.get("campaign"), about.get("campaigns")
    if not isinstance(campaigns, list) or not all(isinstance(one, str) for one in campaigns):
        # Of an earlier version, which did not tell what "all" were.
        campaigns = [named] if isinstance(named, str) else None
    if campaigns is None or campaigns == [given]:
        return given, ""
    made_for = f"{provenance.NAME}, report: made for campaign{'s' * (len(campaigns) > 1)} {_listed(campaigns)}"
    if given is not None:
        return given, f"{made_for}; " + (
            f"name it with --campaign {_listed(campaigns)}" if len(campaigns) == 1 else "leave --campaign out"
        )
    if isinstance(named, str):
        return named, ""
    with ResponseStore.open(store, read_only=True) as opened, opened.reading() as connection:
        query = "SELECT DISTINCT campaign FROM attempts JOIN images USING (sha256) ORDER BY campaign"
        here = [name for (name,) in connection.execute(query)]
    if len(campaigns) == 1 and campaigns[0] in here:
        return campaigns[0], ""
    if set(campaigns) < set(here):
        return None, f"{made_for}; the store has {_listed(here)} by now, and only all of them or one can be made again"
    return None, ""


def _listed(campaigns: Collection[object]) -> str:
    return text.plain(", ".join(map(str, campaigns)), 120)


def _unread(store: Path, campaign: str | None) -> list[str]:
    """A line for each provider of which an answer's labels cannot be read from the raw response: they are only believed then."""
    with ResponseStore.open(store, read_only=True) as opened, opened.reading() as connection:
        answers = connection.execute(
            "SELECT provider, sha256, raw FROM responses WHERE ?1 IS NULL OR campaign = ?1 ORDER BY provider, sha256",
            (campaign,),
        )
        parsers: dict[str, Callable[[bytes], object] | None] = {}
        lines: list[str] = []
        failed: dict[str, list[str]] = {}
        for provider, sha256, raw in answers:
            if provider not in parsers:
                parsers[provider] = _parser(provider, lines)
            parse = parsers[provider]
            try:
                if parse is not None:
                    parse(raw if isinstance(raw, bytes) else str(raw).encode())
            except Exception as error:  # noqa: BLE001 - an adapter is somebody's package
                message = error.message if isinstance(error, ProviderError) else str(error) or type(error).__name__
                failed.setdefault(provider, []).append(f"{sha256[:12]}: {text.plain(message, 100)}")
    for provider, those in failed.items():
        first = f"the first: {those[0]}" if len(those) > 1 else those[0]
        lines.append(f"{store.name}: {len(those)} raw responses of {provider} cannot be read again; {first}")
    return lines


def _parser(provider: str, lines: list[str]) -> Callable[[bytes], object] | None:
    try:
        parse: Callable[[bytes], object] = registry.adapter(provider).parse
    except (ApibenchError, AttributeError) as error:
        why = text.plain(error, 160)
        lines.append(f"labels of {text.plain(provider, 40)} cannot be read from the raw responses: {why}")
        return None
    return parse


@dataclass
class _Comparison:
    """``report`` is what is there, ``again`` what was made now."""

    store: Path
    report: Path
    again: Path
    campaign: str | None
    of_another: bool  # it was made for another campaign, which is told already
    compared: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self) -> None:
        wanted, there = _files(self.again), _files(self.report)
        wanted.discard(provenance.NAME)
        self._provenance()
        for name in sorted(wanted):
            self._file(name)
        if self.said:
            self._written(wanted, there - {provenance.NAME})
        for name in sorted(there - wanted - {provenance.NAME} - self.hashes.keys()):
            self.differences.append(f"{text.plain(name)}: is no file of the report of this store")

    @cached_property
    def said(self) -> dict[str, Any]:
        return provenance.read(self.report)

    @cached_property
    def hashes(self) -> dict[str, Any]:
        """The SHA-256 of every file that was written, by its path; empty where the provenance does not say."""
        files = self.said.get("files")
        return files if isinstance(files, dict) else {}

    @cached_property
    def images_at_hand(self) -> bool:
        """Whether every image that was asked about is where the store says, unchanged."""
        with ResponseStore.open(self.store, read_only=True) as opened, opened.reading() as connection:
            asked = connection.execute(
                "SELECT folder, file, sha256 FROM images WHERE sha256 IN "
                "(SELECT sha256 FROM attempts WHERE ?1 IS NULL OR campaign = ?1)",
                (self.campaign,),
            )
            return all(sent_file(self.store.parent, *image) is not None for image in asked)

    @cached_property
    def drawn_alike(self) -> bool:
        """Whether pictures were drawn by the libraries that are here: other versions draw other bytes."""
        there, here = self.said.get("versions"), provenance.versions()
        return isinstance(there, dict) and all(there.get(name) == here.get(name) for name in _DRAWN_WITH)

    @cached_property
    def same_store(self) -> bool:
        """Whether the store has the same calls and answers of the campaigns that the report is of."""
        there = self.said.get("store")
        return isinstance(there, dict) and _same(there, provenance.read(self.again).get("store"))

    def _provenance(self) -> None:
        said, found = self.said, provenance.read(self.again)
        if not said:
            self.differences.append(f"{provenance.NAME}: not there, or not readable")
            return
        self.compared.append(provenance.NAME)
        for name in _SAME:
            if not (_same(said.get(name), found.get(name)) or (self.of_another and name in ("store", "report"))):
                self._says(name, said.get(name), found.get(name))
        if self.same_store:
            before, here = said["store"], found["store"]
            if before.get("name") != here["name"]:
                self.notes.append(f"{provenance.NAME}, store: named otherwise than {self.store.name} here")
            if before.get("sha256") != here["sha256"]:
                self.notes.append(
                    f"{provenance.NAME}, store: {self.store.name} is another file by now (more was added to it), with the same "
                    "calls and answers of what the report is of"
                )
        self.notes += [
            f"{provenance.NAME}, {name}: of another version than here"
            for name in _TOLD
            if said.get(name) != found.get(name)
        ]
        if said.get("recipe") != found.get("recipe"):
            if found.get("recipe") is None:
                self.notes.append(f"{provenance.NAME}, recipe: not compared, it is not at hand")
            else:
                self._says("recipe", said.get("recipe"), found.get("recipe"))
        self._image_sets(said.get("image_sets"), found.get("image_sets"))

    def _image_sets(self, said: object, found: object) -> None:
        """Sets at hand have to be those that were; others cannot be looked at."""
        before, here = (one if isinstance(one, list) else [] for one in (said, found))
        at_hand = {one["name"] for one in here}
        for one in here:
            if one not in before:
                self.differences.append(
                    f"{provenance.NAME}, image_sets: {text.plain(one['name'], 60)} at hand is another one"
                )
        for one in before:
            if one in here:
                continue
            name = one.get("name") if isinstance(one, dict) else one
            if name not in at_hand:
                self.notes.append(
                    f"{provenance.NAME}, image_sets: {text.plain(name, 60)} is not compared, it is not at hand"
                )
            elif all(one in before for one in here):
                self.differences.append(f"{provenance.NAME}, image_sets: {text.plain(name, 60)} is one too many")

    def _says(self, name: str, said: object, found: object) -> None:
        self.differences.append(f"{provenance.NAME}, {name}: says {_short(said)}, recomputed {_short(found)}")

    def _written(self, wanted: Collection[str], there: Collection[str]) -> None:
        """Is every file the one that was written? Said of those alone of which no difference was found yet."""
        named = {line.partition(",")[0].partition(":")[0] for line in self.differences}
        for name in sorted((self.hashes.keys() | wanted) - named):
            if name not in there:
                self.differences.append(f"{text.plain(name)}: not there")
            elif provenance.sha256(self.report / name) != self.hashes.get(name):
                self._differs(name, _OTHER_HASH)
            elif name in wanted:
                continue
            elif self.images_at_hand or Path(name).suffix in TABLES:
                self.differences.append(f"{text.plain(name)}: is no file of the report of this store")
            else:
                self.notes.append(f"{name}: not compared, the image files are not at hand")

    def _file(self, name: str) -> None:
        try:
            there, found = (self.report / name).read_bytes(), (self.again / name).read_bytes()
        except OSError as error:
            self.differences.append(
                f"{name}: {'not there' if isinstance(error, FileNotFoundError) else error.strerror}"
            )
            return
        pixels = Path(name).suffix not in TABLES or Path(name).name.startswith(OF_IMAGES)
        if there == found:
            self.compared.append(name)
        elif pixels and (why := self._not_comparable(name, there, found)):
            self._as_written(name, there, why)
        elif name.endswith(".csv"):
            self._differs(name, differences.first_cell(there, found))
        elif Path(name).suffix in TABLES:
            self._differs(name, self._first_line(name, there, found))
        elif name == PAGE:
            self._differs(name, differences.first_part(there, found))
        else:
            self._differs(name, f"{len(there)} bytes, recomputed {len(found)}, and not the same ones")

    def _differs(self, name: str, how: str) -> None:
        self.compared.append(name)
        if how:
            self.differences.append(f"{name}{how if how.startswith(',') else f': {how}'}")

    def _not_comparable(self, name: str, there: bytes, found: bytes) -> str:
        if not self.images_at_hand:
            return "the image files are not at hand"
        if Path(name).suffix in TABLES or self.drawn_alike:
            return ""
        if name == PAGE and differences.without_pictures(there) != differences.without_pictures(found):
            return ""  # its words are the same whatever the versions
        return "its pictures were drawn by other versions of the libraries"

    def _as_written(self, name: str, there: bytes, why: str) -> None:
        """Of a file that cannot be made again here: is it at least the one that was written?"""
        if self.hashes.get(name) != hashlib.sha256(there).hexdigest():
            self._differs(name, _OTHER_HASH)
        else:
            self.notes.append(f"{name}: not compared, {why}")

    def _first_line(self, name: str, there: bytes, found: bytes) -> str:
        """The first line that differs, in words; nothing where only what may differ does."""
        a, b = differences.lines(there), differences.lines(found)
        if name == DOCUMENT and not self.images_at_hand:
            a, b = differences.without(a, SECTIONS_OF_IMAGES), differences.without(b, SECTIONS_OF_IMAGES)
            titles = ", ".join(title.removeprefix("## ") for title in SECTIONS_OF_IMAGES)
            self.notes.append(f"{name}: sections not compared, the image files are not at hand: {titles}")
        for (number, said), (_, says) in zip_longest(a, b, fillvalue=(0, "")):
            if said == says:
                continue
            if name == DOCUMENT and _VERSIONS.fullmatch(said) and _VERSIONS.fullmatch(says):
                self.notes.append(f"{name}: made with other versions ({said[2:]}), verified with {says[2:]}")
                continue
            stores = [_STORE.fullmatch(line) for line in (said, says)]
            if name == DOCUMENT and stores[0] and stores[1] and self._is_store(stores[0][1], stores[1][1]):
                continue  # the same store under another name, or with more in it, which the provenance's note tells
            return f", {f'line {number}' if number else 'its end'}: {differences.both(said, says)}"
        return "" if len(a) == len(b) else ", its end: empty lines"

    def _is_store(self, said: str, here: str) -> bool:
        """Is a hash that the document names that of this store, or what this store had before more was added?"""
        return said == here or (self.same_store and said == self.said["store"].get("sha256"))


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _same(said: object, found: object) -> bool:
    """Of what the provenance says of a store, whatever its file is called, and whatever campaigns it has besides."""
    if not isinstance(said, dict) or not isinstance(found, dict):
        return said == found
    both = said.keys() & found.keys()
    left_out = {"name", "store"}
    for stricter, other in (("answers_sha256", "sha256"), ("campaigns", "campaign")):
        left_out.add(other if stricter in both else stricter)
    return all(_same(said.get(key), found.get(key)) for key in (said.keys() | found.keys()) - left_out)


def _short(value: object) -> str:
    if isinstance(value, dict) and "sha256" in value:
        return f"{text.plain(value.get('name', ''), 40)} with SHA-256 {text.plain(value['sha256'], 16)}"
    return text.plain(value, 80)
