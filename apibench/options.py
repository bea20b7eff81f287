"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from apibench import defaults

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
MAX_SIDE = click.option(
    "--max-side",
    type=click.IntRange(32, 8192),
    default=512,
    show_default=True,
    help="Shrink photographs to this longest side on import. Everything later refers to those pixels.",
)
THREADS = click.option(
    "--threads", type=click.IntRange(1, 256), help="CPU threads to compute with.  [default: all cores]"
)
TARGET = click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME|PROVIDER=NAME",
    help=f"The emulator's network, for all providers or for one; repeat for several.  [default: {defaults.TARGET}]",
)
DEVICE = click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, cuda:1, mps.")


def _engine(command: Callable[..., Any]) -> Callable[..., Any]:
    """``engine``, ``workers`` and ``address``: where the images of a set are made."""
    for option in (
        click.option(
            "--address", metavar="HOST:PORT", help="Of a Ray cluster that is there.  [default: one started here]"
        ),
        click.option(
            "--workers",
            type=click.IntRange(1, 4096),
            help="Images in the making at a time.  [default: 1; one a GPU with --device cuda; with Ray as many as fit]",
        ),
        click.option(
            "--engine",
            type=click.Choice(defaults.ENGINES),
            default=defaults.LOCAL,
            show_default=True,
            help="This machine, or a Ray cluster whose machines all see the folders.",
        ),
    ):
        command = option(command)
    return command


ENGINE = _engine
