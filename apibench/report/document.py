"""report.md: the main table first, then the picture, the noise, and where every number comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import pandas as pd

import apibench
from apibench import metrics, text
from apibench.evaluation import noise
from apibench.grid import Value, to_csv
from apibench.report import against, figures, tables
from apibench.report.compare import NONE, Answers, K, Row, is_emulated
from apibench.report.figures import Figure
from apibench.report.frames import GROUP, StoreFrames, epsilon
from apibench.report.picture import Files, Picture
from apibench.report.sheets import FOLDER, Sheet

NOISE_COLUMNS = ["attack", "epsilon", "patch", "pairs", "pairs_not_at_hand", "patches", "flat_patches"] + [
    f"{quantity}{end}"
    for quantity in ("mean", "absolute_mean", "skewness", "absolute_skewness")
    for end in ("", "_low", "_high")
]

NO_PICTURE = "No picture: the image files are not at hand, or no adversarial image has an answered clean one."
PICTURE = "![Clean, adversarial, difference and purified images](picture.png)"
IN_WORDS = (
    "First label and its score. Images whose label was lost under the attack and came back are shown first. In words:"
)
NO_NOISE = "No adversarial image was asked about."
ABOUT_NOISE = (
    f"Adversarial minus clean image, in levels of 0-255, by tile of {noise.PATCH} × {noise.PATCH} pixels of one channel "
    "(tiles do not overlap; what is left over at the right and bottom edge is not looked at). Means over all tiles, with "
    "the 95 % interval of a bootstrap over images. Skewness is not defined for a tile without variance; those are left out "
    "of it. That both are close to zero is the observation that Gaussian smoothing rests on."
)


@dataclass(frozen=True)
class Noise:
    """The noise of one attack. ``missing`` counts pairs whose files are not at hand, or no longer those of the store."""

    attack: str
    summary: noise.NoiseSummary
    missing: int


def measure_noise(frames: StoreFrames, files: Files) -> list[Noise]:
    """The noise analysis of every adversarial variant that no purifier has touched, one image pair in memory at a time."""
    found = []
    adversarial = frames.images[(frames.images["attack"] != "clean") & (frames.images["purifier"] == NONE)]
    for attack, part in adversarial.groupby("attack", sort=True):
        measured, missing = [], 0
        for source in sorted(set(part["source"])):
            clean, changed = files.pixels("clean", NONE, source), files.pixels(str(attack), NONE, source)
            if clean is None or changed is None or clean.shape != changed.shape:
                missing += 1
            else:
                measured.append(noise.patch_statistics(clean, changed))
        found.append(Noise(str(attack), noise.summarise(measured), missing))
    return found


def noise_csv(found: Sequence[Noise]) -> str:
    """One line per attack. Means are in levels of 0-255."""
    records = []
    for one in found:
        record: dict[str, Value] = {
            "attack": one.attack,
            "epsilon": epsilon(one.attack),
            "patch": noise.PATCH,
            "pairs": one.summary.images,
            "pairs_not_at_hand": one.missing,
            "patches": one.summary.patches,
            "flat_patches": one.summary.flat_patches,
        }
        for name in ("mean", "absolute_mean", "skewness", "absolute_skewness"):
            estimate: noise.Estimate = getattr(one.summary, name)
            record |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        records.append(record)
    return to_csv(records, NOISE_COLUMNS)


def write(
    frames: StoreFrames,
    groups: Sequence[Answers],
    rows: Sequence[Row],
    found_noise: Sequence[Noise],
    picture: Picture | None,
    store_name: str,
    store_sha256: str,
    sheets: Sequence[Sheet] = (),
    since: against.Comparison | None = None,
    drawn: Sequence[Figure] = (),
) -> str:
    """The whole document. Nothing in it depends on the time or the place it is written. ``sheets``: the files of ``tables``."""
    campaigns = sorted(set(frames.outcomes["campaign"]))
    names = ", ".join(text.markdown(name, 60) for name in campaigns)
    parts = [f"# API benchmark: campaign{'s' if len(campaigns) > 1 else ''} {names}", tables.main_table(rows)]
    if changes := tables.change_table(rows):
        parts += ["## What each purifier changes", changes]
    if since is not None:
        changes = against.sheet(since).markdown
        parts += [f"## Changes since {text.markdown(since.name)}", against.in_words(since), changes]
    parts += _benchmark(sheets)
    if bounds := tables.bounds_table(rows):
        parts += ["## Images left out", bounds]
    parts += ["## Picture", *_picture(picture)]
    if drawn:
        parts += ["## Figures", *figures.section(drawn)]
    parts += ["## Noise of the attack", *_noise(found_noise)]
    parts += ["## What was asked", *_asked(frames, groups, rows)]
    parts += ["## Where the numbers come from", *_provenance(frames, groups, store_name, store_sha256, since)]
    return "\n\n".join(parts) + "\n"


def _benchmark(sheets: Sequence[Sheet]) -> list[str]:
    """The paper's tables, and where all of them lie."""
    shown = [sheet for sheet in sheets if sheet.name.startswith(("strength-", "agreement-", "correct-"))]
    parts = []
    for sheet in shown:
        parts += [f"### {text.markdown(sheet.title)}", sheet.markdown]
    forms = [
        f"- {text.markdown(sheet.title)}: "
        + ", ".join(
            f"[{form}]({FOLDER}/{sheet.name}.{end})"
            for form, end in (("Markdown", "md"), ("CSV", "csv"), ("LaTeX", "tex"))
        )
        for sheet in sheets
    ]
    return ["## Benchmark tables", *parts, "### As files", "\n".join(forms)] if forms else []


def _picture(picture: Picture | None) -> list[str]:
    if picture is None:
        return [NO_PICTURE]
    head = ["Image", *(text.markdown(name, 60) for name in picture.heads)]
    body = [[text.markdown(name, 40), *(text.markdown(line, 60) for line in lines)] for name, lines in picture.rows]
    note = f"{tables.origin_caption([picture.group])} {IN_WORDS}"
    return [PICTURE, note, text.table(head, body)]


def _noise(found: Sequence[Noise]) -> list[str]:
    if not found:
        return [NO_NOISE]
    body, notes = [], []
    for one in found:
        if not one.summary.images:
            notes.append(f"{text.markdown(one.attack)}: images not at hand ({one.missing} pairs).")
            continue
        if one.missing:
            notes.append(f"{text.markdown(one.attack)}: {one.missing} pairs are not at hand and left out.")
        summary = one.summary
        cells = [str(summary.images), str(summary.patches), str(summary.flat_patches)]
        quantities = (summary.mean, summary.absolute_mean, summary.skewness, summary.absolute_skewness)
        body.append([text.markdown(one.attack), *cells, *map(_estimate, quantities)])
    if not body:
        return notes
    # "\|" keeps the bars of an absolute value out of the table's own.
    measured = ["Mean", r"\|Mean\|", "Skewness", r"\|Skewness\|"]
    head = ["Attack", "Pairs", "Tiles", "Flat tiles", *measured]
    return [ABOUT_NOISE, text.table(head, body, right=range(1, len(head))), *notes]


def _estimate(one: noise.Estimate) -> str:
    if one.value is None:
        return "–"
    return f"{text.number(one.value, 3)} [{text.number(one.low, 3)}, {text.number(one.high, 3)}]"


# --- what was asked, and what it cost ---


def _asked(frames: StoreFrames, groups: Sequence[Answers], rows: Sequence[Row]) -> list[str]:
    naming = tables.Naming(group.group for group in groups)
    naming.answered_by = False  # calls and money are those of a campaign, whichever model answered
    calls = {tuple(row[name] for name in GROUP): row for row in frames.attempts.to_dict("records")}
    body = []
    done = set()
    for group in groups:
        key = tuple(getattr(group.group, name) for name in GROUP)
        if key in done:
            continue
        done.add(key)
        asked = frames.outcomes[(frames.outcomes[GROUP] == list(key)).all(axis=1)]
        counts = asked["outcome"].value_counts()
        spent = calls.get(key, {"calls": 0, "uncertain": 0, "price": None})
        body.append(
            [
                *naming.cells(group.group),
                str(asked["source"].nunique()),
                str(len(asked)),
                *(str(int(counts.get(outcome, 0))) for outcome in ("answered", "rejected", "failed")),
                str(int(spent["calls"])),
                str(int(spent["uncertain"])),
                _paid(group.group.origin, spent["price"]),
            ]
        )
    head = [
        *naming.head(),
        "Photographs",
        "Images asked",
        "Answered",
        "Rejected",
        "Failed",
        "Calls",
        "Uncertain",
        "Cost",
    ]
    about = (
        f"{tables.origin_caption(group.group for group in groups)} *Calls* are requests put on the wire, retries included; "
        "*uncertain* ones may have been billed without their answer reaching us. *Cost* is the list price of all that was "
        "billed or may have been."
    )
    return [about, text.table(head, body, right=range(len(head) - 8, len(head))), *_changed(groups, rows)]


def _paid(origin: str, price: object) -> str:
    if is_emulated(origin):
        return "0 (emulated: nothing was paid)"
    return f"{price:.4f} USD" if isinstance(price, int | float) and not pd.isna(price) else "not known"


def _changed(groups: Sequence[Answers], rows: Sequence[Row]) -> list[str]:
    """How many labels each attack changed, and how many comparisons hung on a tie."""
    lines = []
    naming = tables.Naming(group.group for group in groups)
    for group in groups:
        who = ", ".join(naming.cells(group.group))
        if group.clean_without_label:
            lines.append(
                f"- {who}: {group.clean_without_label} clean images have no label; they are in no denominator."
            )
        for row in (row for row in rows if row.group == group.group and row.purifier == NONE and row.attacked):
            assert row.attacked is not None
            changed = metrics.complement(row.attacked.top1)
            bound = epsilon(row.attack or "")
            lines.append(
                f"- {who}, {text.markdown(row.attack, 40)}: "
                + (f"epsilon {bound} of 255; " if bound is not None else "")
                + f"the first label of {changed.k} of {changed.n} images changed."
            )
        own = [row for row in rows if row.group == group.group]
        ties = sum(
            agreement.ties1
            for row in own
            for agreement in (row.clean, row.purified, row.attacked if row.purifier == NONE else None)
            if agreement
        )
        lines.append(f"- {who}: {ties} comparisons with a tie for the first place; the vendor's order decided.")
    return ["\n".join(lines)] if lines else []


# --- provenance ---


def _provenance(
    frames: StoreFrames,
    groups: Sequence[Answers],
    store_name: str,
    store_sha256: str,
    since: against.Comparison | None,
) -> list[str]:
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "pandas", "pillow", "scipy"))
    lines = [
        f"- Store `{_file_name(store_name)}`, SHA-256 `{store_sha256}`.",
        *([f"- Changes are since answers in `{_file_name(since.store.name)}`."] if since and since.of_another else []),
        f"- apibench {apibench.__version__}; {versions}.",
        f"- Bootstraps: {metrics.RESAMPLES} resamples, seed {metrics.SEED}. Intervals: 95 %. Top-{K} agreement and overlap: "
        "table.csv.",
        "- Every share counts lines of `answers.csv`, one per image: its hash there is the key of the raw response in the "
        "store's table `responses`, from which the labels are read.",
    ]
    for group in groups:
        about = group.group
        answered_by = text.markdown(about.model_version or "no model version named", 80)
        lines.append(
            f"- {text.markdown(about.title)}, campaign {text.markdown(about.campaign)}, origin {text.markdown(about.origin)}: "
            f"model version {answered_by}; settings {text.markdown(about.settings, 300)}."
        )
    lines += [f"- {text.markdown(note, 600)}" for note in frames.notes]
    return ["\n".join(lines)]


def _file_name(name: str) -> str:
    """A name between backquotes."""
    return text.plain(name).replace("`", "")
