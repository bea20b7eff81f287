"""The commands: one function each, thin. Nothing is computed here, and neither torch nor an SDK is imported for ``--help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from apibench import __version__, defaults
from apibench.commands.analyze import analyze
from apibench.commands.attacks import attacks
from apibench.commands.controls import controls
from apibench.commands.evaluate import evaluate
from apibench.commands.generate import generate
from apibench.commands.purifiers import purifiers as list_purifiers
from apibench.commands.train import train
from apibench.commands.tune import tune
from apibench.errors import ApibenchError, ExitCode
from apibench.options import DEVICE, FILE, FOLDER, MAX_SIDE, TARGET, THREADS
from apibench.terminal import beside, list_failed, parse_settings, parse_targets, run_command, use_threads


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="apibench")
def cli() -> None:
    """How robust are the commercial image-labelling APIs, and does purifying the image first help?

    \b
    A run has five stages; each reads what the one before wrote, can be stopped and started again, and is a command:
      generate   photographs       -> adversarial images, by attacking public classifiers (attacks: what there is)
      purify     images            -> images smoothed by a purifier (gaussian, ncis, jpeg, ...)
      query      images            -> stored responses of a provider (or of the local emulator)
      report     stored responses  -> tables, a picture and an HTML page
      run        a recipe (TOML)   -> all of it

    \b
    Try it offline, with no keys:   apibench run demo.toml

    \b
    And on classifiers of one's own machine, without any provider:
      evaluate   standard and robust accuracy: classifiers x attacks x purifiers      tune   a purifier's setting
      analyze    is the noise of an attack zero mean and symmetric?                   train  the network of NCIS
      controls   mere noise or blur, as far from the clean images as an attack's are

    Exit codes: 0 done; 2 nothing could be done; 3 done, but some images could not be; 4 a cap on calls was reached;
    130 interrupted.
    """


@cli.command()
@click.option("--images", required=True, metavar="DIR|SET", help="An image set, photographs, or pypi:foolbox.")
@click.option("--out", required=True, type=FOLDER, metavar="SET", help="Where the purified set goes.")
@click.option("--clean-out", type=FOLDER, metavar="SET", help="Where imported photographs go.  [default: OUT-clean]")
@click.option(
    "--purifier",
    required=True,
    metavar="NAME",
    help="NAME[:ARGUMENT], such as jpeg:50, or several joined by a plus; 'apibench purifiers' lists them.",
)
@click.option("--iterations", default=1, show_default=True, type=click.IntRange(1, 1000), help="How many passes.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of purifiers that draw.")
@MAX_SIDE
@THREADS
@DEVICE
def purify(
    images: str,
    out: Path,
    clean_out: Path | None,
    purifier: str,
    iterations: int,
    seed: int,
    max_side: int,
    threads: int | None,
    device: str,
) -> ExitCode:
    """Purify a set of images, clean or adversarial.

    \b
    apibench purify --images sets/adv --out sets/adv-ncis --purifier ncis --iterations 4
    apibench purify --images sets/adv --out sets/adv-both --purifier jpeg:50+ncis:4
    """
    from apibench import purifiers
    from apibench.purifiers import stage
    from apibench.sources import open_source

    use_threads(threads, device)
    chosen = purifiers.create(purifier, iterations)
    source = open_source(images, clean_out or beside(out), max_side=max_side)
    made = stage.purify(source.images, out, chosen, device=device, seed=seed)
    click.echo(f"{out}: {made.made} made, {made.kept} were there")
    return list_failed([*source.failed, *made.failed], source.ignored)


@cli.command()
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


@cli.command()
@click.option(
    "--provider",
    "providers",
    multiple=True,
    metavar="NAME",
    help="Whose protocol to speak; repeat for several.  [default: all whose packages are installed]",
)
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Port for HTTP.  [default: a free one]")
@click.option("--grpc-port", default=0, type=click.IntRange(0, 65535), help="Port for gRPC.  [default: a free one]")
@TARGET
@click.option("--bill", type=FILE, metavar="FILE", help="Append a JSON line for each answered image.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND=PROBABILITY",
    help="Fail at random: throttle=0.1, 500=0.05, hang, drop, ...",
)
@click.option(
    "--rate-limit",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Throttle above N requests a second to a provider.",
)
@click.option(
    "--latency", default=0.0, show_default=True, type=click.FloatRange(0), help="Seconds added to each answer."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the random faults.")
def emulate(
    providers: tuple[str, ...],
    port: int,
    grpc_port: int,
    targets: tuple[str, ...],
    bill: Path | None,
    faults: tuple[str, ...],
    rate_limit: float | None,
    latency: float,
    seed: int,
) -> ExitCode:
    """Speak the vendors' wire protocols on 127.0.0.1 and answer with real classifiers, until interrupted.

    Any SDK can be pointed at it: AWS's by endpoint_url or AWS_ENDPOINT_URL_REKOGNITION, Azure's by its endpoint, Google's and
    Clarifai's by their endpoint or a channel of one's own (gRPC without TLS).

    \b
    apibench emulate --port 8080 --grpc-port 8081 --bill bill.jsonl
    apibench emulate --target google=tf_efficientnet_lite1 --target tf_efficientnet_lite2
    """
    from apibench.emulator import Emulator, Faults, vendors

    chosen = Faults.parse(faults, seed=seed)
    served = providers or vendors.available()
    vendors.check([*served, *(name for name in vendors.VENDORS if any(x.startswith(f"{name}=") for x in targets))])
    with Emulator(
        parse_targets(targets, served, defaults.TARGET),
        providers=served,
        port=port,
        grpc_port=grpc_port,
        bill=bill,
        faults=chosen,
        latency=latency,
        rate_limit=rate_limit,
    ) as emulator:
        for line in emulator.describe():
            click.echo(line)
        click.echo("stop with Ctrl-C")
        emulator.serve_forever()
    return ExitCode.DONE


@cli.command()
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


@cli.command()
@click.argument("recipe", metavar="RECIPE.toml")
@click.option("--images", metavar="DIR|SET", help="Instead of the recipe's images.source.")
@click.option("--out", type=FOLDER, metavar="DIR", help="Instead of the recipe's out.")
@click.option("--dry-run", is_flag=True, help="Check the recipe, print calls and cost; compute and send nothing.")
@THREADS
def run(recipe: str, images: str | None, out: Path | None, dry_run: bool, threads: int | None) -> ExitCode:
    """Run a recipe: import, attack, purify, query, report. What is already there is not done again.

    RECIPE is a file, or the name of one that comes with apibench: demo.toml (offline, free) or api-benchmark.toml (live).

    \b
    apibench run demo.toml
    apibench run api-benchmark.toml --images photos --dry-run
    """
    from apibench import recipe as recipes
    from apibench import run as runs

    loaded = recipes.load(recipes.find(recipe), images=images, out=out)
    if dry_run:
        runs.check(loaded)
        for plan in runs.plans(loaded):
            click.echo(plan)
        for line in runs.providers(loaded)[1]:
            click.echo(line)
        return ExitCode.DONE
    use_threads(threads, "cpu")
    runs.check(loaded)
    result = runs.run(loaded, click.echo)
    click.echo("\n" + result.main_table)
    click.echo(f"store:  {result.store}\nreport: {result.report}\npage:   {result.page}")
    list_failed([("", problem) for problem in result.problems], 0)
    return result.exit_code


for command in (generate, controls, attacks, train, tune, analyze, evaluate, list_purifiers):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script: run a command and exit with its code."""
    sys.exit(run_command(cli, arguments))
