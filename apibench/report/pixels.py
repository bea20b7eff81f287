"""What of a report is made from image files, and the rest of it: that can be compared wherever the image files are.

The rest is found by taking out what pixels give, in the very form in which a report has it: whatever else stands there is left,
and differs from what the store gives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from apibench.report import document
from apibench.report.differences import Line

FILES = frozenset({"noise.csv", "picture.png", "figures/noise.png", "figures/noise.svg"})
SECTIONS = ("## Picture", "## Noise of the attack")  # of the document
_FIGURES = "## Figures"
_FIGURE = re.compile(
    r"!\[Noise of the attacks\]\(figures/noise\.png\)"
    r"|\*Noise of the attacks\.\* How often an attack changed .*\(\[SVG\]\(figures/noise\.svg\)\)"
)
_KNOWN = frozenset({document.NO_PICTURE, document.PICTURE, document.NO_NOISE, document.ABOUT_NOISE, ""})
_FORM = re.compile(
    rf"\|.*\||[^|]* {re.escape(document.IN_WORDS)}|.{{1,160}}: (?:images not at hand \(\d+ pairs\)|\d+ pairs are not at hand and "
    r"left out)\."
)

_PICTURE = (
    r'<div class="picture">(?:<img src="data:image/(?:webp|jpeg);base64,[A-Za-z0-9+/=]*" width="\d+" height="\d+" '
    r'alt="Photograph [\w, ]+" loading="lazy" decoding="async"(?: class="tiny")?>)?'
    r'(?:<p class="note">(?:file not at hand|cannot be shown: files not at hand|at most \d+ of 255|mean −?[\d.]+)</p>)*</div>'
)
# In this order: of a difference nothing is left but its picture's place.
_OF_PAGE = [
    (re.compile(form), left)
    for form, left in (
        (_PICTURE, ""),
        (r'<figure class="cell">\n<figcaption><bdi>difference × \d+</bdi></figcaption>\n\n</figure>\n', ""),
        (r" <small>\d+ × \d+ pixels</small>", ""),
        (r";--c:\d+;--s:\d+", ""),
        (r"Not asked about (?:these files|this photograph): ", "Not asked about: "),
        (
            r'<p class="origin loud"><strong>The image files are not at hand</strong>[^<]*numbers need no images\.</p>\n',
            "",
        ),
        (
            r" Pictures are thumbnails; a difference is shown \d+ times as strong around grey\. A slider stands[^<]*</p>",
            " </p>",
        ),
        (
            r'<p class="note">\d+ pictures? (?:is|are) not at hand, or no longer what was sent\.</p>(?:\n(?=</section>))?',
            "",
        ),
    )
]
_CARD = re.compile(r'(?<=<script type="application/json" id="card-)(\d+">)("[^<]*")(?=</script>)')
_CARD_BESIDE = re.compile(r'(apibenchCard\(\d+,)("[^<]*")(?=\)\n)')


def without(page: bytes) -> bytes:
    """A page, or a file beside it, without what pixels give: its words and numbers, its style and its script."""
    text = page.decode("utf-8", "replace")
    for cards in (_CARD, _CARD_BESIDE):
        text = cards.sub(lambda card: card[1] + _read(card[2]), text)
    for form, left in _OF_PAGE:
        text = form.sub(left, text)
    return text.encode()


def _read(card: str) -> str:
    """A photograph's HTML, from the JSON that it is in; JSON that cannot be read is left as it is."""
    try:
        return str(json.loads(card))
    except ValueError:
        return card


def split(lines: Sequence[Line]) -> tuple[list[Line], Line | None]:
    """A document without the sections and the figure that are made from pixels; and the first line there that no report has.

    Of several sections of one title, only the first is one of them.
    """
    kept: list[Line] = []
    strange: Line | None = None
    within, left = False, set(SECTIONS)
    for number, line in lines:
        if line.startswith("## "):
            within = line in left
            left.discard(line)
        elif within and strange is None and not (line in _KNOWN or _FORM.fullmatch(line)):
            strange = (number, line)
        if not (within or _FIGURE.fullmatch(line)):
            kept.append((number, line))
    return _without_empty_section(_one_blank_each(kept)), strange


def _one_blank_each(lines: Sequence[Line]) -> list[Line]:
    """Where a paragraph was taken out, two empty lines meet."""
    return [line for place, line in enumerate(lines) if line[1] or not place or lines[place - 1][1]]


def _without_empty_section(lines: list[Line]) -> list[Line]:
    """Without the heading of the figures, where the one that was taken out was the only one."""
    words = [text for _, text in lines]
    if _FIGURES in words:
        place = words.index(_FIGURES)
        if place + 2 >= len(words) or words[place + 2].startswith("## "):
            return lines[:place] + lines[place + 2 :]
    return lines
