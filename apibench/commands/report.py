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
@click.option(
    "--against",
    metavar="STORE|CAMPAIGN",
    help="What changed since: another campaign of this store, or another store (or STORE:CAMPAIGN). A name that is both a "
    "campaign's and a file's is the campaign's; ./NAME is the file's.",
)
@click.option(
    "--verify", is_flag=True, help="Write nothing: is the report in DIR what the raw responses say? Else exit code 3."
)
def report(store: Path, out: Path, campaign: str | None, against: str | None, verify: bool) -> ExitCode:
    """Write tables (Markdown, CSV, LaTeX), a picture and an HTML page from stored responses. Needs no network.

    \b
    apibench report --store aws.sqlite --out report
    apibench report --store aws.sqlite --out report --verify
    apibench report --store june.sqlite --out report --against may.sqlite
    """
    if verify:
        return _verify(store, out, campaign, against)
    from apibench.report import write_report

    written = write_report(store, out, campaign, against)
    click.echo(written.summary)
    if written.changes:
        click.echo(f"\nChanges since {against}:\n{written.changes}\n")
    click.echo(f"report: {written.report}\npage:   {written.page}")
    return ExitCode.DONE


def _verify(store: Path, out: Path, campaign: str | None, against: str | None) -> ExitCode:
    """Make the report again and compare it, a line for each file that differs."""
    from apibench.report.verify import verify_report

    found = verify_report(store, out, campaign, against=against)
    for line in found.notes:
        click.echo(line)
    for line in found.differences:
        click.echo(f"differs: {line}", err=True)
    if not found.holds:
        return ExitCode.SOME_FAILED
    click.echo(f"{out}: is what the raw responses of {store} say ({found.extent})")
    return ExitCode.DONE
