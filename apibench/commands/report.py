"""``apibench report``: tables and pages from stored responses."""

from __future__ import annotations

from pathlib import Path

import click

from apibench.errors import ExitCode
from apibench.options import FILE, FOLDER


@click.command()
@click.option("--store", required=True, type=FILE, metavar="FILE", help="A store that 'apibench query' wrote.")
@click.option("--out", required=True, type=FOLDER, metavar="DIR", help="Where the report goes.")
@click.option("--campaign", metavar="NAME", help="Only this campaign.  [default: all, each in its own rows]")
def report(store: Path, out: Path, campaign: str | None) -> ExitCode:
    """Write tables (Markdown, CSV), a picture and an HTML page from stored responses. Needs no network.

    \b
    apibench report --store aws.sqlite --out report
    """
    from apibench.report import write_report

    written = write_report(store, out, campaign)
    click.echo(written.main_table)
    click.echo(f"report: {written.report}\npage:   {written.page}")
    return ExitCode.DONE
