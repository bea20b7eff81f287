"""What an analysis of noise leaves behind: ``analysis.md``, four CSV files and two SVG figures a set."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path

from apibench import text
from apibench.evaluation import noise_figures
from apibench.evaluation.analysis import NoiseMeasures, SetAnalysis
from apibench.evaluation.noise import PATCH, RESAMPLES
from apibench.evaluation.noise_claims import CLAIMS, MINIMUM_IMAGES, interval
from apibench.evaluation.noise_controls import ATTACK, SIGN_FLIP
from apibench.evaluation.noise_histograms import Histogram
from apibench.evaluation.noise_patches import CHANNELS, QUANTITIES, SIDES, WHOLE
from apibench.evaluation.spectra import FILTERS
from apibench.imageset import write_atomically

_PHOTOGRAPHS = "photographs"
_Row = Mapping[str, object]


def write(found: Sequence[SetAnalysis], out: Path) -> Path:
    """Write everything into ``out``; the path of ``analysis.md``. The same input gives the same bytes."""
    for name, rows in (
        ("statistics", _statistics(found)),
        ("spectra", _spectra(found)),
        ("histograms", _histograms(found)),
        ("smoothing", _smoothing(found)),
    ):
        write_atomically(out / f"{name}.csv", _csv(rows))
    for number, one in enumerate(found, start=1):
        for kind, draw in (("histograms", noise_figures.histograms), ("spectra", noise_figures.spectra)):
            if one.attack.images:
                write_atomically(out / _figure(number, one, kind), draw(one).encode())
    path = out / "analysis.md"
    write_atomically(path, document(found).encode())
    return path


def sentences(one: SetAnalysis) -> list[str]:
    """The verdicts on one set, what its patch means say, and what smoothing takes: plain text."""
    attack, control = one.attack, one.noises[SIGN_FLIP]
    said = [claim.sentence(attack.table) for claim in CLAIMS]
    times = attack.table["times_independent", PATCH, "all"]
    if times.value:
        alike = min(PATCH**2, PATCH**2 / times.value**2)
        flipped = text.number(control.table["times_independent", PATCH, "all"].value, 2)
        said.append(
            f"Correlation: the means of {PATCH}×{PATCH} patches are {interval(times, digits=2)} times as large as independent "
            f"pixels of the same power give (with random signs: {flipped}); such a patch averages like {alike:.0f} independent "
            f"pixels, not {PATCH**2}."
        )
    taken = [measures.smoothed.removed(0, mean=True) for measures in (attack, control)]
    photographs = one.smoothed.removed(0, mean=False)
    if None not in (*taken, photographs):
        said.append(
            f"Smoothing: {FILTERS[0].name} removes {text.percent(taken[0])} % of this noise's energy, "
            f"{text.percent(taken[1])} % of it with random signs, and {text.percent(photographs)} % of the photographs'."
        )
    return said


def document(found: Sequence[SetAnalysis]) -> str:
    """``analysis.md``."""
    parts = [
        "# Noise of adversarial images",
        "Noise is adversarial minus clean, in levels of 255. NCIS (arXiv 2106.11644) rests on the observation that, by patch, "
        "its mean and its skewness are close to zero. Below is whether that is so for these sets.",
        _sets_table(found),
        "## What counts as holding",
        f"Fixed before the noise is looked at. A claim holds where the whole 95 % interval (percentile bootstrap over images, "
        f"{RESAMPLES:,} resamples) is within its margin, does not hold where the whole interval is outside, and cannot be told "
        f"in between or with fewer than {MINIMUM_IMAGES} images: two one-sided tests at 2.5 % each. All are for "
        f"{PATCH}×{PATCH} patches, all channels; other sizes and channels are in the tables.",
        "\n".join(f"- **{claim.name}**: {claim.why}." for claim in CLAIMS),
        "The same numbers for noise that is honest stand beside each attack: *sign-flip* is the attack's own noise, each value "
        "with a random sign, so symmetric, of mean zero and independent by construction; *uniform*, *gaussian* and *sign* are "
        "independent noise of each image's own L-infinity, put on the photograph and clipped to 0-255 (what they are off zero "
        "is that clipping, in black and in white areas).",
    ]
    for number, one in enumerate(found, start=1):
        parts += _section(number, one)
    return "\n\n".join(parts) + "\n"


def _sets_table(found: Sequence[SetAnalysis]) -> str:
    rows = []
    for one in found:
        table = one.attack.table
        against = ", ".join(text.markdown(name, 60) for name in one.surrogates) or "–"
        rms = interval(table["rms", WHOLE, "all"], digits=2)
        rows.append([text.markdown(one.name), text.markdown(one.folder), against, str(one.attack.images)])
        rows[-1] += [str(one.attack.bound), rms]
    return text.table(["Set", "Folder", "Made against", "Images", "L-infinity", "RMS"], rows, right=(3, 4, 5))


def _section(number: int, one: SetAnalysis) -> list[str]:
    parts = [f"## {text.markdown(one.name)}", *_left_out(one)]
    if not one.attack.images:
        return [*parts, "No image of this set could be measured."]
    name = text.markdown(one.name)
    return [
        *parts,
        "\n".join(f"- {text.markdown(line)}" for line in sentences(one)),
        _verdicts(one),
        f"![Histograms of {name}]({_figure(number, one, 'histograms')})",
        _normality(one),
        "Mean over patches, with 95 % intervals. *Mean* and *|Mean|* in levels; *Share* is |Mean| in per cent of the noise's "
        "RMS; *× independent* is the RMS of the patch means over that of independent pixels of the same power (their RMS "
        "over the patch's side): 1 for independent pixels, the side itself for noise constant in each patch, about zero "
        "for noise without low frequencies. Flat patches have no skewness.".replace("|", r"\|"),
        _patch_table(one),
        f"![Spectra of {name}]({_figure(number, one, 'spectra')})",
        "Power density of the noise (Hann window, mean taken off) beside that of the photographs. What a Gaussian smoothing "
        "takes, from the cosine spectrum (the picture mirrored at its borders): the share of the noise's energy, mean "
        "included; of the same noise with random signs; of the photographs' energy without their mean. RMS in levels: of the "
        "noise before and after, and of the change to a clean photograph.",
        _trade(one),
    ]


def _left_out(one: SetAnalysis) -> list[str]:
    notes = []
    for names, what in (
        ([identifier for identifier, _ in one.failed], "images of this set could not be measured"),
        (one.unattacked, "clean images have no partner in this set"),
    ):
        if names:
            shown = ", ".join(text.markdown(name, 60) for name in names[:10])
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            notes.append(f"{len(names)} {what}: {shown}{more}.")
    if one.repeated:
        notes.append(
            f"{one.repeated} images of this set have a clean image that another one has too; the first counts."
        )
    return notes


def _verdicts(one: SetAnalysis) -> str:
    rows = [
        [kind, *(f"{claim.judge(m.table)}: {_short(m, claim.quantity, claim.unit)}" for claim in CLAIMS)]
        for kind, m in one.noises.items()
    ]
    return text.table(["Noise", *(claim.name for claim in CLAIMS)], rows)


def _short(measures: NoiseMeasures, quantity: str, unit: str) -> str:
    shown = interval(measures.table[quantity, PATCH, "all"], unit)
    return shown.replace(" % of the noise's RMS", " %")


def _normality(one: SetAnalysis) -> str:
    rows = []
    for kind, measures in one.noises.items():
        cells = []
        for histogram in (measures.pixels, measures.means):
            mean, deviation = histogram.moments()
            distance = histogram.kolmogorov()
            cells += [text.number(mean, 3), text.number(deviation, 3), text.number(distance, 3)]
        rows.append([kind, *cells])
    head = ["Noise", "Pixel mean", "SD", "Distance", "Patch mean", "SD", "Distance"]
    about = (
        "*Distance* is Kolmogorov's, from a normal of the same mean and standard deviation (0 none, 1 all; pixels in bins of one "
        "level). It is a size, not a test: with so many pixels every difference is significant."
    )
    return about + "\n\n" + text.table(head, rows, right=range(1, 7))


def _patch_table(one: SetAnalysis) -> str:
    picked = [(ATTACK, side, "all") for side in SIDES]
    picked += [(ATTACK, PATCH, channel) for channel in CHANNELS[:-1]]
    picked += [(kind, side, "all") for kind in list(one.noises)[1:] for side in SIDES]
    rows = []
    for kind, side, channel in picked:
        table = one.noises[kind].table
        total, varied = table.patches[side, channel]
        estimates = table.estimates[side, channel]
        share = interval(estimates["absolute_mean_share"], "%").removesuffix(" % of the noise's RMS")
        rows.append(
            [
                kind,
                channel,
                _side(side),
                str(total),
                str(total - varied),
                interval(estimates["mean"]),
                interval(estimates["absolute_mean"]),
                share,
                interval(estimates["times_independent"], digits=2),
                interval(estimates["skewness"]),
                interval(estimates["absolute_skewness"]),
                interval(estimates["excess_kurtosis"], digits=2),
            ]
        )
    head = ["Noise", "Channel", "Patch", "Patches", "Flat", "Mean", r"\|Mean\|", "Share", "× independent"]
    head += ["Skewness", r"\|Skewness\|", "Excess kurtosis"]
    return text.table(head, rows, right=range(3, 12))


def _trade(one: SetAnalysis) -> str:
    attack, control = one.attack.smoothed, one.noises[SIGN_FLIP].smoothed
    before = text.number(attack.energy(mean=True) ** 0.5, 2)
    rows = [
        [
            filter_.name,
            text.percent(attack.removed(number, mean=True)),
            text.percent(control.removed(number, mean=True)),
            text.percent(one.smoothed.removed(number, mean=False)),
            f"{before} → {text.number(attack.left(number), 2)}",
            text.number(one.smoothed.changed(number), 2),
        ]
        for number, filter_ in enumerate(FILTERS)
    ]
    head = [
        "Smoothing",
        "Noise removed, %",
        "Random signs, %",
        "Photographs, %",
        "Noise RMS",
        "Photograph changed by, RMS",
    ]
    return text.table(head, rows, right=range(1, 6))


def _side(side: int) -> str:
    return "image" if side == WHOLE else str(side)


def _figure(number: int, one: SetAnalysis, kind: str) -> str:
    """A plain name, whatever the variant is called; the number keeps two sets apart."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", one.name).strip("-")[:60] or "set"
    return f"{number}-{plain}-{kind}.svg"


# --- CSV ---


def _statistics(found: Sequence[SetAnalysis]) -> Iterable[_Row]:
    for one, kind, measures in _all(found):
        for (side, channel), estimates in measures.table.estimates.items():
            total, varied = measures.table.patches[side, channel]
            for quantity in QUANTITIES:
                about = {"set": one.name, "noise": kind, "channel": channel, "patch": _side(side), "quantity": quantity}
                estimate = estimates[quantity]
                yield {
                    **about,
                    "value": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    "images": measures.images,
                    "patches": total,
                    "flat_patches": total - varied,
                }


def _spectra(found: Sequence[SetAnalysis]) -> Iterable[_Row]:
    for one in found:
        spectra = {kind: measures.spectrum for kind, measures in one.noises.items()} | {_PHOTOGRAPHS: one.photographs}
        for kind, spectrum in spectra.items():
            for channel in CHANNELS:
                density = spectrum.density(channel)
                for low, high, value in zip(spectrum.edges[:-1], spectrum.edges[1:], density, strict=True):
                    about = {"set": one.name, "noise": kind, "channel": channel}
                    frequencies = {"frequency_low": float(low), "frequency_high": float(high)}
                    yield {**about, **frequencies, "density": None if value != value else float(value)}


def _histograms(found: Sequence[SetAnalysis]) -> Iterable[_Row]:
    for one, kind, measures in _all(found):
        quantities: dict[str, Histogram] = {"pixel": measures.pixels, f"patch mean {PATCH}": measures.means}
        for quantity, histogram in quantities.items():
            for channel in CHANNELS:
                counts, normal = histogram.counts(channel), histogram.normal(channel)
                for centre, count, expected in zip(histogram.centres, counts, normal, strict=True):
                    if count or expected >= 0.5:
                        about = {"set": one.name, "noise": kind, "channel": channel, "quantity": quantity}
                        yield {**about, "centre": float(centre), "count": int(count), "normal": float(expected)}


def _smoothing(found: Sequence[SetAnalysis]) -> Iterable[_Row]:
    for one in found:
        parts = [(kind, measures.smoothed, True) for kind, measures in one.noises.items()]
        for kind, smoothed, mean in [*parts, (_PHOTOGRAPHS, one.smoothed, False)]:
            for channel in CHANNELS:
                for number, filter_ in enumerate(FILTERS):
                    yield {
                        "set": one.name,
                        "noise": kind,
                        "channel": channel,
                        "smoothing": filter_.name,
                        "energy_removed": smoothed.removed(number, channel, mean=mean),
                        "rms_before": smoothed.energy(channel, mean=mean) ** 0.5,
                        "rms_changed": smoothed.changed(number, channel),
                    }


def _all(found: Sequence[SetAnalysis]) -> Iterable[tuple[SetAnalysis, str, NoiseMeasures]]:
    return ((one, kind, measures) for one in found for kind, measures in one.noises.items())


def _csv(rows: Iterable[_Row]) -> bytes:
    """With a head, and six digits; empty where there is no number."""
    out = StringIO()
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(out, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow({key: _cell(value) for key, value in row.items()})
    return out.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, str):
        return text.spreadsheet(value)
    return f"{value:.6g}" if isinstance(value, float) else value
