"""``apibench train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from apibench.errors import ApibenchError, ExitCode
from apibench.options import DEVICE, FILE, FOLDER, THREADS
from apibench.terminal import list_failed, use_threads

PRESETS = ("paper", "range", "small", "noise", "affine", "bsn")


@click.command()
@click.option("--images", required=True, type=FOLDER, metavar="DIR", help="Photographs; no labels are used.")
@click.option("--out", required=True, type=FILE, metavar="FILE.safetensors", help="Where the best weights go.")
@click.option(
    "--preset",
    default="paper",
    show_default=True,
    type=click.Choice(PRESETS),
    help="Where the options below start from.",
)
@click.option("--steps", type=click.IntRange(1), help="Training steps.  [default: 2000]")
@click.option("--batch", type=click.IntRange(1), help="Crops a step.  [default: 4]")
@click.option("--crop", type=click.IntRange(8), help="Side of what a crop predicts, in pixels.  [default: 96]")
@click.option("--filters", type=click.IntRange(3), help="Channels of the network.  [default: the preset's]")
@click.option("--layers", type=click.IntRange(2), help="Masked convolutions of the network.  [default: 8]")
@click.option("--kernel", type=click.IntRange(1), help="Taps of the smoothing (odd).  [default: the preset's]")
@click.option("--sigma", type=click.FloatRange(0, min_open=True), help="Its width, in pixels.  [default: the preset's]")
@click.option(
    "--widths",
    type=(float, float),
    metavar="LOW HIGH",
    help="Train for smoothings of every sigma from LOW to HIGH.  [default: the preset's]",
)
@click.option(
    "--noise",
    type=(float, float),
    metavar="LOW HIGH",
    help="Add zero-mean noise of LOW to HIGH levels (its RMS) before the smoothing.  [default: the preset's]",
)
@click.option(
    "--noise-width",
    type=click.FloatRange(0, 16),
    metavar="PIXELS",
    help="Over how many pixels, at most, that noise is correlated.  [default: the preset's]",
)
@click.option(
    "--noise-share",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SHARE",
    help="How many of the crops get that noise.  [default: the preset's]",
)
@click.option(
    "--balance",
    type=click.FloatRange(0, 255),
    metavar="LEVELS",
    help="Errors under noise far above it count less; 0: all alike.  [default: the preset's]",
)
@click.option("--start", type=FILE, metavar="FILE.safetensors", help="Weights to start from, of the same network.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="At its peak.  [default: 0.002]")
@click.option("--validate-every", type=click.IntRange(1), help="Steps between checkpoints.  [default: 100]")
@click.option("--seed", type=click.IntRange(0), help="Seed of weights, crops and noise.  [default: 0]")
@click.option("--max-side", type=click.IntRange(32, 8192), help="Shrink photographs to this side.  [default: 512]")
@THREADS
@DEVICE
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Of the convolutions; auto is bfloat16 on a GPU that has it, else float32.",
)
@click.option("--compile/--no-compile", "compiled", default=None, help="torch.compile.  [default: on a GPU]")
@click.option(
    "--processes", default=1, show_default=True, type=click.IntRange(1), help="Share each batch among N processes."
)
def train(
    images: Path,
    out: Path,
    preset: str,
    start: Path | None,
    threads: int | None,
    device: str,
    precision: str,
    compiled: bool | None,
    processes: int,
    **options: Any,
) -> ExitCode:
    """Train the blind-spot network of NCIS, self-supervised: give back a photograph from its smoothed self.

    About a tenth of the photographs is held out for validation. A checkpoint beside OUT lets a killed training go on.

    \b
    Presets: paper   8 layers of 64 filters, one smoothing (5 taps, sigma 1)
             range   the same, for smoothings of any sigma from 0.7 to 2
             small   32 filters: a quarter of the computing
             bsn     the network alone, no smoothing before it
             noise   trained to undo noise as well as the smoothing
             affine  ncis-affine: the pixel itself is used too

    \b
    apibench train --images photos --out my-ncis.safetensors --steps 5000
    apibench purify --images sets/adv --out sets/adv-mine --purifier ncis:my-ncis.safetensors
    """
    from apibench.purifiers import job

    use_threads(threads, device)
    try:
        settings = job.settings(preset, {key: value for key, value in options.items() if value is not None})
    except ValueError as error:
        raise ApibenchError(str(error)) from error
    summary = job.train(images, out, settings, device, precision, compiled, processes, start)
    best = summary["best"]
    click.echo(
        f"{out}: best at step {best['step']}: validation {best['validation']:.6f} (mean squared error; "
        f"smoothing alone {best['smoothing']:.6f}), {summary['seconds']:.0f} s"
    )
    return list_failed([(reason.partition(":")[0], reason) for reason in summary["skipped"]], 0)
