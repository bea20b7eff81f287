"""``apibench emulate``: the vendors' wire protocols on loopback."""

from __future__ import annotations

from pathlib import Path

import click

from apibench import defaults
from apibench.errors import ExitCode
from apibench.options import FILE, TARGET
from apibench.terminal import parse_targets


@click.command()
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
