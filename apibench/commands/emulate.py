"""``apibench emulate``: the vendors' wire protocols on loopback."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from apibench import defaults
from apibench.errors import ApibenchError, ExitCode
from apibench.options import FILE, TARGET
from apibench.terminal import parse_targets

if TYPE_CHECKING:
    from apibench.emulator import Emulator, Faults


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
@click.option(
    "--answers",
    type=click.Choice(["network", "random"]),
    default="network",
    show_default=True,
    help="Who answers: a classifier, or labels drawn by the image's hash, which mean nothing (for tests of load; no torch).",
)
@click.option("--bill", type=FILE, metavar="FILE", help="Append a JSON line for each answered image.")
@click.option(
    "--script",
    "scripts",
    multiple=True,
    metavar="KIND,...",
    help="What happens to each request, in turn, before all is well: throttle,hang:2,ok*3. Per provider: google=drop,ok.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND=PROBABILITY",
    help="Fail at random: throttle=0.1, 500=0.05, slow:3=0.01, reset, bad-image, ... Per provider: google=throttle=0.1.",
)
@click.option(
    "--rate-limit",
    "limits",
    multiple=True,
    metavar="N",
    help="Throttle above N requests a second to a provider. Per provider: google=30.",
)
@click.option(
    "--latency",
    "latencies",
    multiple=True,
    metavar="SECONDS",
    help="Added to each answer: 0.2, uniform:0.1,0.3, normal:0.2,0.05, lognormal:0.2,0.5 (median, sigma) or exponential:0.2. "
    "Per provider: google=0.3.",
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of random faults and latencies."
)
@click.option(
    "--check-keys",
    is_flag=True,
    help="Refuse all keys but the fixed fake ones: EMULATED, and for AWS id EMULATED with secret emulated (signatures are "
    "verified).",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="PROVIDER=KEY",
    help="Refuse all keys of a provider but this; aws=ID:SECRET. Others can read a command line: none of your real keys.",
)
@click.option(
    "--tls", type=FILE, metavar="FILE", help="Speak TLS, with a CA made for it, whose certificate goes to FILE."
)
def emulate(
    providers: tuple[str, ...],
    port: int,
    grpc_port: int,
    targets: tuple[str, ...],
    answers: str,
    bill: Path | None,
    scripts: tuple[str, ...],
    faults: tuple[str, ...],
    limits: tuple[str, ...],
    latencies: tuple[str, ...],
    seed: int,
    check_keys: bool,
    keys: tuple[str, ...],
    tls: Path | None,
) -> ExitCode:
    """Speak the vendors' wire protocols on 127.0.0.1 and answer with real classifiers, until interrupted.

    Any SDK can be pointed at it: AWS's by endpoint_url or AWS_ENDPOINT_URL_REKOGNITION, Azure's two by their endpoint, Google's
    and Clarifai's by their endpoint or a channel of one's own. At its end it prints what it has counted.

    \b
    apibench emulate --port 8080 --grpc-port 8081 --bill bill.jsonl
    apibench emulate --target google=tf_efficientnet_lite1 --target tf_efficientnet_lite2
    apibench emulate --answers random --script throttle,ok*5,drop-after --latency lognormal:0.2,0.5 --rate-limit google=30

    \b
    Kinds of fault (hang and slow take seconds, hang:2):
      throttle provisioned 429 500 502 503 504 expired bad-image image-error
      hang slow drop reset drop-after truncated malformed empty html content-type
    """
    from apibench.emulator import Answerer, Emulator, vendors

    served = providers or vendors.available()
    vendors.check([*served, *(name for name in vendors.VENDORS if any(x.startswith(f"{name}=") for x in targets))])
    if targets and answers == "random":
        raise ApibenchError("--target names a network, and with --answers random none answers")
    with Emulator(
        parse_targets(targets, served, defaults.TARGET),
        providers=served,
        port=port,
        grpc_port=grpc_port,
        bill=bill,
        faults=_faults(scripts, faults, seed),
        latency=_one_each("--latency", latencies),
        rate_limit={name: _rate(text) for name, text in _one_each("--rate-limit", limits).items()},
        accepted_keys=_keys(keys, check_keys),
        answerer=Answerer.random() if answers == "random" else None,
        tls=tls,
        seed=seed,
    ) as emulator:
        trust = [] if tls is None else [f"the CA that clients have to trust: {tls}"]
        said = "\n".join([*emulator.describe(), *trust, "stop with Ctrl-C"])
        emulator.serve_forever(lambda: click.echo(said))
        click.echo(_summary(emulator))
    return ExitCode.DONE


def _faults(scripts: Iterable[str], entries: Iterable[str], seed: int) -> dict[str, Any]:
    """By provider: its script, and after it its probabilities."""
    from apibench.emulator import Faults, faults, vendors

    lines = {name: faults.script(text) for name, text in _one_each("--script", scripts).items()}
    chances = vendors.split(entries)
    made: dict[str, Faults] = {
        name: Faults.parse(chances.get(name, ()), seed=seed, script=lines.get(name, ()))
        for name in sorted({*lines, *chances})
    }
    return made


def _one_each(option: str, entries: Iterable[str]) -> dict[str, Any]:
    """By provider, once each. Raises ApibenchError for a second one."""
    from apibench.emulator import vendors

    found = vendors.split(entries)
    for name, given in found.items():
        if len(given) > 1:
            raise ApibenchError(f"{option} {given[1]}: it is given twice for {'all' if name == '*' else name}")
    return {name: given[0] for name, given in found.items()}


def _rate(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ApibenchError(f"--rate-limit {text}: write N or PROVIDER=N, in requests a second") from error


def _keys(entries: Iterable[str], fixed: bool) -> dict[str, Collection[str]]:
    """By provider. No message holds a key."""
    from apibench.emulator import vendors

    found: dict[str, Collection[str]] = dict(vendors.FAKE_KEYS) if fixed else {}
    own = vendors.split(entries)
    for name, given in own.items():
        if name == vendors.OTHERS:
            raise ApibenchError(f"--key: write PROVIDER=KEY; providers are {', '.join(vendors.VENDORS)}")
        if not all(given) or (name == "aws" and any(not all(key.partition(":")) for key in given)):
            raise ApibenchError(f"--key {name}: write {'aws=ID:SECRET' if name == 'aws' else f'{name}=KEY'}")
        found[name] = given
    return found


def _summary(emulator: Emulator) -> str:
    """What came in, and what it would have cost the vendors' customers."""
    hits = ", ".join(f"{outcome} {count}" for outcome, count in emulator.hits.most_common())
    bill = ", ".join(f"{name} {count}" for name, count in sorted(emulator.bill.items()))
    return f"{emulator.hits.total()} requests{': ' if hits else ''}{hits}\nbilled images: {bill or 'none'}"
