"""``apibench query``: images sent to a provider, its raw responses kept."""

from __future__ import annotations

from pathlib import Path

import click

from apibench import defaults
from apibench.errors import ApibenchError, ExitCode
from apibench.options import FILE, MAX_SIDE, TARGET
from apibench.terminal import list_failed, parse_settings, parse_targets


@click.command()
@click.option(
    "--provider",
    required=True,
    metavar="NAME",
    help="Whom to ask: aws, azure, clarifai, google, or another installed one.",
)
@click.option(
    "--images",
    "images",
    required=True,
    multiple=True,
    metavar="DIR|SET",
    help="What to send; repeat for several. Photographs are imported into a set beside the store.",
)
@click.option("--store", required=True, type=FILE, metavar="FILE", help="Where responses are kept (SQLite).")
@click.option("--emulated", is_flag=True, help="Ask a local emulator instead, with fake keys. Costs nothing.")
@TARGET
@click.option(
    "--endpoint",
    metavar="URL",
    help="Another endpoint than the SDK's own (its answers are marked 'custom'); with --emulated, a running emulator.",
)
@click.option(
    "--campaign", default="default", show_default=True, help="Answers of another campaign are asked for anew."
)
@click.option(
    "--max-calls",
    type=click.IntRange(1),
    metavar="N",
    help="Never put more requests on the wire for this campaign, over all starts.",
)
@click.option("--dry-run", is_flag=True, help="Print calls and cost; send nothing. Needs no keys.")
@click.option("--concurrency", default=4, show_default=True, type=click.IntRange(1, 64), help="Requests at a time.")
@click.option(
    "--timeout", default=30.0, show_default=True, type=click.FloatRange(0.1), help="Seconds to wait for an answer."
)
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="Requests a second.  [default: the provider's limit]"
)
@click.option(
    "--setting", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the provider, such as MaxLabels=20."
)
@click.option("--prices", type=FILE, metavar="FILE", help="A price list of your own, like data/prices.json.")
@MAX_SIDE
def query(
    provider: str,
    images: tuple[str, ...],
    store: Path,
    emulated: bool,
    targets: tuple[str, ...],
    endpoint: str | None,
    campaign: str,
    max_calls: int | None,
    dry_run: bool,
    concurrency: int,
    timeout: float,
    rate: float | None,
    settings: tuple[str, ...],
    prices: Path | None,
    max_side: int,
) -> ExitCode:
    """Send images to a provider and keep its raw responses.

    An image with a stored answer is never sent again: run it again to go on where it stopped. One store takes all providers.
    Credentials come from the vendors' usual places and are never stored, logged or printed:

    \b
      aws        boto3's chain: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ...; AWS_DEFAULT_REGION
      azure      VISION_ENDPOINT and VISION_KEY
      clarifai   CLARIFAI_PAT
      google     GOOGLE_API_KEY, or application default credentials

    \b
    apibench query --provider aws --images sets/clean --images sets/adv --store answers.sqlite --emulated
    apibench query --provider google --images sets/clean --store answers.sqlite --setting transport=rest --dry-run
    """
    from apibench.query import registry, stage
    from apibench.run import summary
    from apibench.sources import open_sources

    if targets and (not emulated or endpoint):
        # Whoever names the emulator's network means the emulator, and not the vendor.
        raise ApibenchError("--target is the network of an emulator of one's own: give --emulated, and no --endpoint")
    chosen = stage.QuerySettings(
        provider=provider,
        campaign=campaign,
        emulated=emulated,
        target=parse_targets(targets, registry.names(), defaults.TARGET).get(provider, defaults.TARGET),
        endpoint=endpoint,
        max_calls=max_calls,
        concurrency=concurrency,
        timeout=timeout,
        per_second=rate,
        settings=parse_settings(settings),
        prices=prices,
    )
    stage.estimate(chosen, 0)  # a wrong provider or price list is found before photographs are decoded
    sources = open_sources(images, store, max_side=max_side)
    sets = [source.images for source in sources]
    failed = [problem for source in sources for problem in source.failed]
    if dry_run:
        click.echo(stage.plan(sets, store, chosen))
        return list_failed(failed, 0)
    report = stage.query_images(sets, store, chosen)
    click.echo(f"{store}: {provider}: {summary(report)}")
    if report.halted is not None:
        click.echo(f"apibench: {provider}: {report.message}", err=True)
    code = list_failed([*failed, *((name, f"{name}: {reason}") for name, reason in report.problems)], 0)
    return report.exit_code or code
