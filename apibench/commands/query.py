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
    metavar="NAME",
    help="Whom to ask: aws, azure, clarifai, google, another installed one, or local:CLASSIFIER on this machine.",
)
@click.option(
    "--images",
    "images",
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
@click.option(
    "--max-cost",
    type=click.FloatRange(0, min_open=True),
    metavar="USD",
    help="Never spend more on this campaign by list price, over all starts; what may have been billed counts. With --emulated "
    "it is rehearsed.",
)
@click.option("--dry-run", is_flag=True, help="Print calls and cost; send nothing. Needs no keys.")
@click.option("--status", is_flag=True, help="Print what the store holds and what it cost; send nothing.")
@click.option("--check", is_flag=True, help="With --status: is the store sound? Exit code 3 if it is not.")
@click.option(
    "--on-uncertain",
    type=click.Choice(["ask-again", "stop", "insist"]),
    default="ask-again",
    show_default=True,
    help="An answer is lost, perhaps billed: ask about its image once more in the campaign, leave it, or once more each start.",
)
@click.option(
    "--batch",
    default=1,
    show_default=True,
    type=click.IntRange(1, 128),
    help="Images a request, where the vendor takes several (google 16, clarifai 128). Each is billed.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 64),
    help="Requests at a time.  [default: the rate's worth of a second, at least 4]",
)
@click.option(
    "--timeout", default=30.0, show_default=True, type=click.FloatRange(0.1), help="Seconds for the whole of a call."
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Requests a second.  [default: aws 5 (not verified), azure 20, clarifai 15, google 30; emulated: no limit]",
)
@click.option(
    "--setting", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the provider, such as MaxLabels=20."
)
@click.option("--prices", type=FILE, metavar="FILE", help="A price list of your own, like data/prices.json.")
@click.option("--record", type=FILE, metavar="FILE", help="Write what is said, without keys and images, to a cassette.")
@click.option(
    "--replay",
    type=FILE,
    metavar="FILE",
    help="Let a cassette answer, through the same SDK. Sends nothing, needs no keys.",
)
@MAX_SIDE
def query(
    provider: str | None,
    images: tuple[str, ...],
    store: Path,
    emulated: bool,
    targets: tuple[str, ...],
    endpoint: str | None,
    campaign: str,
    max_calls: int | None,
    max_cost: float | None,
    dry_run: bool,
    status: bool,
    check: bool,
    on_uncertain: str,
    batch: int,
    concurrency: int | None,
    timeout: float,
    rate: float | None,
    settings: tuple[str, ...],
    prices: Path | None,
    record: Path | None,
    replay: Path | None,
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
    apibench query --store answers.sqlite --status --check
    """
    if check and not status:
        raise click.UsageError("--check stands with --status")
    if status:
        if images or dry_run:
            raise click.UsageError("--status stands with --store, and with --check, --prices or --provider at most")
        return _status(store, provider, prices, check=check)
    if provider is None or not images:
        raise click.UsageError(f"Missing option '{'--images' if provider else '--provider'}'.")

    from apibench.query import registry, stage
    from apibench.query.policy import OnUncertain
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
        max_cost=max_cost,
        on_uncertain=OnUncertain(on_uncertain),
        batch=batch,
        concurrency=concurrency,
        timeout=timeout,
        per_second=rate,
        settings=parse_settings(settings),
        prices=prices,
        record=record,
        replay=replay,
    )
    stage.check_files(store, chosen)
    stage.estimate(chosen, 0)  # a wrong provider or price list is found before photographs are decoded
    sources = open_sources(images, store, max_side=max_side)
    sets = [source.images for source in sources]
    failed = [problem for source in sources for problem in source.failed]
    if dry_run:
        click.echo(stage.plan(sets, store, chosen))
        return list_failed(failed, 0)
    report = stage.query_images(sets, store, chosen, say=click.echo)
    click.echo(f"{store}: {provider}: {summary(report)}")
    if report.model_change:
        click.echo(f"{store}: {provider}: {report.model_change}")
    if report.left:
        click.echo(f"{store}: {provider}: {report.hint()}")
    if report.halted is not None:
        click.echo(f"apibench: {provider}: {report.message}", err=True)
    code = list_failed([*failed, *((name, f"{name}: {reason}") for name, reason in report.problems)], 0)
    return report.exit_code or code


def _status(store: Path, provider: str | None, prices: Path | None, *, check: bool) -> ExitCode:
    """What the store holds; with ``check``, whether it is sound too."""
    from apibench.query import status
    from apibench.query.store import ResponseStore

    with ResponseStore.open(store, read_only=True) as opened:
        for line in status.describe(opened, prices, provider):
            click.echo(line)
        problems = status.check(opened) if check else []
    if check and not problems:
        click.echo(f"{store}: sound")
    return list_failed([("", problem) for problem in problems], 0)
