"""The picture of a report: some images clean, adversarial, their difference amplified, and purified, with what the API said."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from apibench import text
from apibench.imageset import Pixels, decode_png
from apibench.query.contract import Label
from apibench.report.compare import NONE, Answers, Group
from apibench.report.frames import epsilon

MOST_ROWS = 4
MOST_PURIFIERS = 3
AMPLIFY = 10
MOST_BYTES = 256 << 20  # of a PNG file: more than any of the largest side that is imported (8192) has

_PANEL = 208  # pixels a side
_GAP = 12
_HEAD = 46
_CAPTION = 50
_FOOT = 30
_INK, _FAINT, _SAME, _OTHER, _PAPER = (25, 25, 25), (105, 105, 105), (12, 110, 62), (176, 32, 32), (255, 255, 255)
# Pillow's own font lacks these.
_LACKING = str.maketrans({"×": "x", "−": "-", "–": "-"})
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Files:
    """The PNG files that a store names, read only if they still are what was sent.

    ``folder`` of the table is relative to the store's folder (or absolute); ``file`` is a plain name within it.
    """

    def __init__(self, store: Path, images: pd.DataFrame) -> None:
        self._root = store.parent
        self._found: dict[tuple[str, str, str], list[tuple[object, object, str]]] = {}
        for row in images.to_dict("records"):
            key = (row["attack"], row["purifier"], row["source"])
            self._found.setdefault(key, []).append((row["folder"], row["file"], row["sha256"]))

    def pixels(self, attack: str, purifier: str, source: str, sha256: str | None = None) -> Pixels | None:
        """(H, W, 3) uint8; None where there is no such file, or it is not the one of the store.

        Of several files for one image, the first, or the one that was sent with that ``sha256``.
        """
        for folder, file, expected in self._found.get((attack, purifier, source), []):
            if sha256 is None or sha256 == expected:
                return self._read(folder, file, expected)
        return None

    def _read(self, folder: object, file: object, sha256: str) -> Pixels | None:
        data = sent_file(self._root, folder, file, sha256)
        try:
            return None if data is None else decode_png(data)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None


def sent_file(root: Path, folder: object, file: object, sha256: object) -> bytes | None:
    """The bytes of a file that a store in the folder ``root`` names; None where it is not there, or is not what was sent."""
    if not isinstance(folder, str) or not isinstance(file, str) or Path(file).name != file:
        return None
    path = root / folder / file
    try:
        # A store from elsewhere may name a device or a pipe, which has no end, or a file larger than memory.
        if not path.is_file() or not 0 < path.stat().st_size <= MOST_BYTES:
            return None
        data = path.read_bytes()
    except (OSError, ValueError):
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def difference(clean: Pixels, adversarial: Pixels) -> tuple[Pixels, tuple[str, str]]:
    """What the attack added, amplified around grey (128: nothing), and how much that is in words. The shapes are the same."""
    noise = adversarial.astype(np.int16) - clean
    words = (f"at most {int(np.abs(noise).max())} of 255", f"mean {text.number(float(noise.mean()), 2)}")
    return np.clip(128 + AMPLIFY * noise, 0, 255).astype(np.uint8), words


@dataclass(frozen=True)
class Panel:
    """One cell of the picture. ``same`` colours the caption: agrees with the clean image, or not; None: neither."""

    pixels: Pixels
    lines: tuple[str, ...]
    same: bool | None = None


@dataclass(frozen=True)
class Picture:
    group: Group
    png: bytes
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]  # image id, and what is under each panel: the picture in words


def draw(groups: Sequence[Answers], files: Files) -> Picture | None:
    """The picture of the first group and attack whose files are at hand, or None. The same input gives the same bytes."""
    for group in groups:
        for attack in group.attacks:
            purifiers = [p for p in group.purifiers(attack) if (attack, p) in group.by_variant]
            # The strongest settings of each purifier are the last ones; every purifier is shown once before any a second time.
            shown = _spread(purifiers)
            rows: list[tuple[str, list[Panel]]] = []
            for source in _order(group, attack, shown):
                panels = _panels(group, files, attack, shown, source)
                if panels is not None:
                    rows.append((group.by_variant[attack, NONE][source].image_id, panels))
                if len(rows) == MOST_ROWS:
                    break
            if rows:
                heads = ["clean", attack, f"difference ×{AMPLIFY}", *(f"{attack} + {purifier}" for purifier in shown)]
                return _compose(group, attack, heads, rows)
    return None


def _spread(purifiers: Sequence[str]) -> list[str]:
    """At most three purifiers, of as many kinds as there are, in the table's order."""
    kinds: dict[str, list[str]] = {}
    for purifier in purifiers:
        kinds.setdefault(purifier.rpartition("/")[0], []).append(purifier)
    chosen: list[str] = []
    while len(chosen) < min(MOST_PURIFIERS, len(purifiers)):
        for members in kinds.values():
            if members and len(chosen) < MOST_PURIFIERS:
                chosen.append(members.pop())
    return [purifier for purifier in purifiers if purifier in chosen]


def _order(group: Answers, attack: str, purifiers: Sequence[str]) -> list[str]:
    """Images whose label was lost and came back first, then those lost for good, then the rest; by id within each."""

    def rank(source: str) -> tuple[int, str, str]:
        lost = group.flag(attack, NONE, source) is False
        back = any(group.flag(attack, purifier, source) for purifier in purifiers)
        image_id = group.by_variant[attack, NONE][source].image_id
        return (0 if lost and back else 1 if lost else 2, image_id, source)

    return sorted(set(group.by_variant.get((attack, NONE), {})) & group.clean.keys(), key=rank)


def _panels(group: Answers, files: Files, attack: str, purifiers: Sequence[str], source: str) -> list[Panel] | None:
    """The panels of one image; None unless its clean and its adversarial file are at hand and of one size."""
    clean, adversarial = files.pixels("clean", NONE, source), files.pixels(attack, NONE, source)
    if clean is None or adversarial is None or clean.shape != adversarial.shape:
        return None
    panels = [
        Panel(clean, _said(group.labels("clean", NONE, source), "answered")),
        Panel(adversarial, _says(group, attack, NONE, source), group.flag(attack, NONE, source)),
        Panel(*difference(clean, adversarial)),
    ]
    for purifier in purifiers:
        pixels = files.pixels(attack, purifier, source)
        if pixels is None:
            grey = np.full_like(clean, 235)
            panels.append(Panel(grey, ("file not at hand",)))
        else:
            panels.append(Panel(pixels, _says(group, attack, purifier, source), group.flag(attack, purifier, source)))
    return panels


def _says(group: Answers, attack: str, purifier: str, source: str) -> tuple[str, ...]:
    answer = group.by_variant.get((attack, purifier), {}).get(source)
    return _said(answer.labels or () if answer else (), answer.outcome if answer else "not asked")


def _said(labels: Sequence[Label], outcome: str) -> tuple[str, ...]:
    if labels:
        return (text.plain(labels[0].name, 80) or "(a label without a name)", f"{labels[0].score:.2f}")
    return ("no label",) if outcome == "answered" else (text.plain(outcome, 30),)


# --- drawing ---


def _compose(group: Answers, attack: str, heads: Sequence[str], rows: Sequence[tuple[str, list[Panel]]]) -> Picture:
    width = _GAP + len(heads) * (_PANEL + _GAP)
    heights = [_row_height(panels) for _, panels in rows]
    canvas = Image.new("RGB", (width, _HEAD + sum(heights) + _FOOT), _PAPER)
    pen = ImageDraw.Draw(canvas)
    large, small = ImageFont.load_default(size=16), ImageFont.load_default(size=14)
    for column, head in enumerate(heads):
        x = _GAP + column * (_PANEL + _GAP)
        pen.text((x + _PANEL // 2, _HEAD // 2 + 2), _fit(pen, head, large), fill=_INK, font=large, anchor="mm")
    top = _HEAD
    for (_, panels), height in zip(rows, heights, strict=True):
        for column, panel in enumerate(panels):
            _draw_panel(canvas, pen, panel, _GAP + column * (_PANEL + _GAP), top, height - _CAPTION, small)
        top += height
    pen.text(
        (_GAP, top + _FOOT // 2 - 4),
        _fit(pen, _foot(group, attack), small, width - 2 * _GAP),
        fill=_FAINT,
        font=small,
        anchor="lm",
    )
    out = BytesIO()
    canvas.save(out, format="PNG", optimize=True)
    words = tuple((image_id, tuple(" ".join(panel.lines) for panel in panels)) for image_id, panels in rows)
    return Picture(group.group, out.getvalue(), tuple(heads), words)


def _foot(group: Answers, attack: str) -> str:
    about = group.group
    who = {"emulated": f"EMULATED: answered by {about.answered_by}, not by a vendor"}.get(
        about.origin, "live" if about.origin == "live" else f"origin: {about.origin}"
    )
    bound = "" if epsilon(attack) is None else f"; bound {epsilon(attack)} of 255"
    return text.plain(
        f"{about.title}, {who}. First label and score; green: as for the clean image; red: another{bound}."
    )


def _row_height(panels: Sequence[Panel]) -> int:
    """As high as the highest image is when scaled to the width of a panel, but no higher than a panel is wide."""
    tallest = max(float(panel.pixels.shape[0] / panel.pixels.shape[1]) for panel in panels)
    return min(_PANEL, max(1, round(_PANEL * tallest))) + _CAPTION


def _draw_panel(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, panel: Panel, x: int, top: int, height: int, font: _Font
) -> None:
    image = Image.fromarray(panel.pixels, "RGB")
    scale = min(_PANEL / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    # Enlarged without smoothing, so that what is shown is what was sent.
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    canvas.paste(image.resize(size, method), (x + (_PANEL - size[0]) // 2, top + (height - size[1]) // 2))
    colour = {True: _SAME, False: _OTHER, None: _INK}[panel.same]
    for number, line in enumerate(panel.lines[:2]):
        at = (x + _PANEL // 2, top + height + 13 + 17 * number)
        pen.text(at, _fit(pen, line, font), fill=colour if number == 0 else _FAINT, font=font, anchor="mm")


def _fit(pen: ImageDraw.ImageDraw, line: str, font: _Font, width: int = _PANEL) -> str:
    """The line, cut to ``width`` pixels, in characters that the font has."""
    line = line.translate(_LACKING)
    if pen.textlength(line, font=font) <= width:
        return line
    while line and pen.textlength(line + "…", font=font) > width:
        line = line[:-1]
    return line.rstrip() + "…"
