"""``apibench export``: a store and its report as a folder that can be published."""

from __future__ import annotations

from pathlib import Path

import click

from apibench.errors import ExitCode
from apibench.options import FILE, FOLDER
from apibench.terminal import list_failed


@click.command()
@click.option("--store", required=True, type=FILE, metavar="FILE", help="A store that 'apibench query' wrote.")
@click.option("--out", required=True, type=FOLDER, metavar="DIR", help="The folder: new, empty, or exported before.")
@click.option("--campaign", metavar="NAME", help="Only this campaign.  [default: all]")
@click.option(
    "--images", is_flag=True, help="With the image files. Without it there is no picture in it, and no thumbnail."
)
def export(store: Path, out: Path, campaign: str | None, images: bool) -> ExitCode:
    """Write a folder to publish: raw responses, attempts, manifest, report, data card and checksums.

    No key is in it, and no folder of this machine: errors are redacted, and if anything still looks like a key, nothing is
    written and its place is named. The report in it is made from the store in it, so that anyone can verify it.

    \b
    apibench export --store aws.sqlite --out published
    apibench report --store published/store.sqlite --out published/report --verify
    """
    from apibench.export import export_store

    made = export_store(store, out, images=images, campaign=campaign)
    pictures = f", {made.images} image files" if images else ", no images"
    click.echo(f"{out}: {made.responses} responses, {made.attempts} attempts{pictures}; {made.files} files")
    click.echo(f"Read {out / 'README.md'} before it is published: whose photographs are these?")
    return list_failed([("", line) for line in made.missing], 0)
