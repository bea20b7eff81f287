"""Is a report what its store says? It is made again, from the raw responses, and held against what is there.

Compared are all tables (CSV, Markdown, LaTeX), ``report.md``, the page and the figures, to the byte, but for the line that names
versions of libraries. Where the image files are not at hand, what is made from them alone (pictures, the noise of the attack) is
left out of that; where other versions of the libraries drew, so are pictures. Whatever is compared, every file has to be the one
that was written (its hash is in ``provenance.json``), and there may be no other.
"""

from __future__ import annotations

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
from apibench.query.store import ResponseStore
from apibench.report import differences, frames, pixels, provenance, reread, write_report
from apibench.report.differences import Line
from apibench.report.picture import sent_file

TABLES = frozenset({".csv", ".md", ".tex"})
DOCUMENT = "report.md"
# What may differ between two machines without any number being another one; it is told, and nothing more.
_NUMBER = r"\d[\w.+!-]*"
_VERSIONS = re.compile(rf"- apibench {_NUMBER}; numpy {_NUMBER}, pandas {_NUMBER}, pillow {_NUMBER}, scipy {_NUMBER}\.")
_STORE = re.compile(r"- Store `[^`]*`, SHA-256 `([0-9a-f]{64})`\.")
_SINCE = re.compile(r"- Changes are since answers in `[^`]*`\.")
_LOG = f"- {text.markdown(frames.LOG_NOTE, 600)}"
_SAME = ("provenance", "label_rule", "bootstrap", "store", "report")  # of provenance.json
_TOLD = ("apibench", "versions")  # of it, too
_DRAWN_WITH = ("matplotlib", "numpy", "pillow")
PAGE = "index.html"
# A photograph's; after its number a hash of what is in it.
_BESIDE = re.compile(r"index_files/(\d{5,})-[0-9a-f]{12}\.js")
_OTHER_VERSIONS = "its pictures were drawn by other versions of the libraries"
_OTHER_HASH = f"changed since it was written ({provenance.NAME} has another hash)"


@dataclass(frozen=True)
class Verification:
    """``differences``: a line a file; ``notes``: what was not compared, and why; ``compared``: the files that were.

    ``not_compared``: those of which nothing could be, but that they are what was written.
    """

    compared: tuple[str, ...]
    differences: tuple[str, ...]
    notes: tuple[str, ...]
    not_compared: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return not self.differences

    @property
    def extent(self) -> str:
        """How many files were compared, and which were not. For a terminal."""
        compared = f"{len(self.compared)} files compared"
        if not self.not_compared:
            return compared
        names = text.plain(", ".join(self.not_compared), 400)
        return f"{compared}, except {len(self.not_compared)} that cannot be here: {names}"


def verify_report(
    store: Path, report: Path, campaign: str | None = None, *, against: str | None = None
) -> Verification:
    """Make the report again in a temporary folder and compare; nothing is written into ``report`` or the store.

    ``campaign``: the one the report is of; None: those its provenance names, whatever campaigns the store has besides by now.
    ``against``: what it was set against, if it was.
    Raises ApibenchError where there is no such folder, the store cannot be read, or ``against`` is missing.
    """
    if not any((report / name).is_file() for name in (provenance.NAME, DOCUMENT)):
        raise ApibenchError(f"{report}: there is no report; 'apibench report --store {store} --out {report}' makes it")
    about = provenance.read(report).get("report")
    about = about if isinstance(about, dict) else {}
    if against is None and isinstance(other := about.get("against"), dict):
        known = [(name, value) for name, value in sorted(other.items()) if not name.endswith("sha256")]
        what = ", ".join(f"{name} {text.plain(value, 60)}" for name, value in known)
        raise ApibenchError(f"{report}: was set against {what}; name that with --against")
    campaigns, other = _selected(store, about, campaign)
    unread = reread.unread(store, frames.selected(campaigns))
    with TemporaryDirectory(prefix="apibench-verify-") as folder:
        again = Path(folder) / "report"
        write_report(store, again, campaigns, against)
        comparison = _Comparison(store, report, again, frames.selected(campaigns), of_another=bool(other))
        comparison.run()
    causes = [other] if other else comparison.causes
    found = (*causes, *unread, *comparison.differences)  # the cause of all else comes first
    return Verification(tuple(comparison.compared), found, tuple(comparison.notes), tuple(comparison.not_compared))


def _selected(store: Path, about: dict[str, Any], given: str | None) -> tuple[str | list[str] | None, str]:
    """The campaigns to make again (None: all), and a line where those cannot be what the report was made for."""
    named, campaigns = about.get("campaign"), about.get("campaigns")
    if not isinstance(campaigns, list) or not all(isinstance(one, str) for one in campaigns):
        # Of an earlier version, which did not tell what "all" were.
        campaigns = [named] if isinstance(named, str) else None
    if campaigns is None or campaigns == [given]:
        return given, ""
    if given is not None:
        made_for = f"{provenance.NAME}, report: made for campaign{'s' * (len(campaigns) > 1)} {_listed(campaigns)}"
        return given, f"{made_for}; " + (
            f"name it with --campaign {_listed(campaigns)}" if len(campaigns) == 1 else "leave --campaign out"
        )
    if isinstance(named, str):
        return named, ""
    with ResponseStore.open(store, read_only=True) as opened, opened.reading() as connection:
        here = {
            name for (name,) in connection.execute("SELECT DISTINCT campaign FROM attempts JOIN images USING (sha256)")
        }
    return (campaigns if campaigns and here.issuperset(campaigns) else None), ""


def _listed(campaigns: Collection[object]) -> str:
    return text.plain(", ".join(map(str, campaigns)), 120)


@dataclass
class _Comparison:
    """``report`` is what is there, ``again`` what was made now."""

    store: Path
    report: Path
    again: Path
    campaigns: Collection[str] | None
    of_another: bool  # it was made for another campaign, which is told already
    compared: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)  # what explains differences

    def run(self) -> None:
        made, there = (_files(folder) - {provenance.NAME} for folder in (self.again, self.report))
        beside = {found[1]: name for name in sorted(there - made) if (found := _BESIDE.fullmatch(name))}
        # With other pictures, a file beside the page has another name.
        called = {name: beside.get(found[1], name) for name in made - there if (found := _BESIDE.fullmatch(name))}
        wanted = {called.get(name, name) for name in made}
        self._provenance()
        for name in sorted(made):
            self._file(called.get(name, name), name)
        if self.said:
            self._written(wanted, there)
        for name in sorted(there - wanted - self.hashes.keys()):
            self.differences.append(f"{text.plain(name)}: is no file of the report of this store")
        self._images()

    def _images(self) -> None:
        """Whether there are other images by now, which may be why answers that are the same give other numbers."""
        then, now = self.said.get("images"), provenance.read(self.again).get("images")
        if not isinstance(then, int) or then == now:
            return
        line = (
            f"{provenance.NAME}, images: says {then}, recomputed {now}: images of variants that were asked about were added to "
            "the store since, or taken out of it; without an answer they count as left out"
        )
        (self.causes if self.differences else self.notes).append(line)

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
                "SELECT folder, file, sha256 FROM images WHERE sha256 IN (SELECT sha256 FROM attempts WHERE ?1 IS NULL OR "
                "campaign IN (SELECT value FROM json_each(?1)))",
                (frames.as_json(self.campaigns),),
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
            elif name in pixels.FILES and not self.images_at_hand:
                self._not_compared(name, "the image files are not at hand")
            else:
                self.differences.append(f"{text.plain(name)}: is no file of the report of this store")

    def _file(self, name: str, made: str) -> None:
        """Compare ``name`` of the report with ``made``, which is called otherwise where it is made from other pictures."""
        try:
            there, found = (self.report / name).read_bytes(), (self.again / made).read_bytes()
        except OSError as error:
            self.differences.append(
                f"{name}: {'not there' if isinstance(error, FileNotFoundError) else error.strerror}"
            )
            return
        page = name == PAGE or bool(_BESIDE.fullmatch(name))
        if there == found:
            self.compared.append(name)
        elif page:
            self._page(name, there, found)
        elif why := self._not_comparable(name):
            self._as_written(name, lambda: self._not_compared(name, why))
        elif name.endswith(".csv"):
            self._differs(name, differences.first_cell(there, found))
        elif Path(name).suffix in TABLES:
            self._differs(name, self._first_line(name, there, found))
        else:
            self._differs(name, f"{len(there)} bytes, recomputed {len(found)}, and not the same ones")

    def _page(self, name: str, there: bytes, found: bytes) -> None:
        """Its words and numbers are the same whatever the pictures."""
        if not self.images_at_hand:
            why, (said, says) = "the image files are not at hand", map(pixels.without, (there, found))
        else:
            why, (said, says) = _OTHER_VERSIONS * (not self.drawn_alike), (there, found)
        if not why or differences.without_pictures(said) != differences.without_pictures(says):
            self._differs(name, differences.first_part(said, says))
            return
        self.compared.append(name)
        self._as_written(name, lambda: self.notes.append(f"{name}: pictures in it not compared, {why}"))

    def _differs(self, name: str, how: str) -> None:
        self.compared.append(name)
        if how:
            self.differences.append(f"{text.plain(name)}{how if how.startswith(',') else f': {how}'}")

    def _not_comparable(self, name: str) -> str:
        if name in pixels.FILES and not self.images_at_hand:
            return "the image files are not at hand"
        return "" if Path(name).suffix in TABLES or self.drawn_alike else _OTHER_VERSIONS

    def _not_compared(self, name: str, why: str) -> None:
        self.not_compared.append(name)
        self.notes.append(f"{text.plain(name)}: not compared, {why}")

    def _as_written(self, name: str, otherwise: Callable[[], None]) -> None:
        """Of a file that cannot be made again here: is it at least the one that was written?"""
        if self.hashes.get(name) != provenance.sha256(self.report / name):
            self._differs(name, _OTHER_HASH)
        else:
            otherwise()

    def _first_line(self, name: str, there: bytes, found: bytes) -> str:
        """The first line that differs, in words; nothing where only what may differ does."""
        a, b = differences.lines(there), differences.lines(found)
        if name == DOCUMENT:
            a, b = (self._without_log(one) for one in (a, b))
        if name == DOCUMENT and not self.images_at_hand:
            (a, strange), (b, _) = pixels.split(a), pixels.split(b)
            if strange:
                return f", line {strange[0]}: says {text.plain(strange[1], 48)}, which no report does there"
            titles = ", ".join(title.removeprefix("## ") for title in pixels.SECTIONS)
            self.notes.append(f"{name}: sections not compared, the image files are not at hand: {titles}")
        for (number, said), (_, says) in zip_longest(a, b, fillvalue=(0, "")):
            if said == says:
                continue
            if name == DOCUMENT and _VERSIONS.fullmatch(said) and _VERSIONS.fullmatch(says):
                self.notes.append(f"{name}: made with other versions ({said[2:]}), verified with {says[2:]}")
                continue
            if name == DOCUMENT and _SINCE.fullmatch(said) and _SINCE.fullmatch(says):
                continue  # the other store may have another name by now
            stores = [_STORE.fullmatch(line) for line in (said, says)]
            if name == DOCUMENT and stores[0] and stores[1] and self._is_store(stores[0][1], stores[1][1]):
                continue  # the same store under another name, or with more in it, which the provenance's note tells
            return f", {f'line {number}' if number else 'its end'}: {differences.both(said, says)}"
        return "" if len(a) == len(b) else ", its end: empty lines"

    def _without_log(self, lines: list[Line]) -> list[Line]:
        """Without the line that another query was writing to the store at that moment, which ends with the query."""
        kept = [line for line in lines if line[1] != _LOG]
        if len(kept) < len(lines):
            self.notes.append(f"{DOCUMENT}: made, or verified, while a query was writing to the store")
        return kept

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
