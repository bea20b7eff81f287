"""The command line: what apibench says of itself, and its commands, each in a module of :mod:`apibench.commands`.

Neither torch nor an SDK is imported for ``--help``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from apibench import __version__
from apibench.commands.analyze import analyze
from apibench.commands.attacks import attacks
from apibench.commands.controls import controls
from apibench.commands.emulate import emulate
from apibench.commands.evaluate import evaluate
from apibench.commands.export import export
from apibench.commands.generate import generate
from apibench.commands.labels import labels
from apibench.commands.purifiers import purifiers
from apibench.commands.purify import purify
from apibench.commands.query import query
from apibench.commands.report import report
from apibench.commands.run import run
from apibench.commands.train import train
from apibench.commands.tune import tune
from apibench.terminal import run_command


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
      export     stored responses  -> a folder that can be published, without keys

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


COMMANDS = (
    analyze,
    attacks,
    controls,
    emulate,
    evaluate,
    export,
    generate,
    labels,
    purifiers,
    purify,
    query,
    report,
    run,
    train,
    tune,
)
for command in COMMANDS:
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script: run a command and exit with its code."""
    sys.exit(run_command(cli, arguments))
