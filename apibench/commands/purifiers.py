"""``apibench purifiers``: what there is to purify with."""

from __future__ import annotations

import json

import click

from apibench import text
from apibench.purifiers import describe


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, for a program.")
def purifiers(as_json: bool) -> None:
    """List the purifiers: how each is written, its default, and the paper it comes from.

    A plus joins several into a chain, and a slash says how many passes one makes; where there are weights, ncis:4 is ncis/4.

    \b
    apibench purify --images sets/adv --out sets/adv-both --purifier jpeg:50+ncis/4
    """
    kinds = describe()
    if as_json:
        rows = [
            {
                "name": kind.name,
                "argument": kind.argument,
                "default": kind.default,
                "does": kind.does,
                "paper": kind.paper,
                "differentiable": kind.differentiable,
                "random": kind.random,
            }
            for kind in kinds
        ]
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    cells = [
        (
            f"`{text.plain(kind.form)}`",
            f"`{text.plain(kind.default)}`",
            text.markdown(kind.does),
            "its own" if kind.differentiable else "none",
            "yes" if kind.random else "no",
            text.markdown(kind.paper),
        )
        for kind in kinds
    ]
    click.echo(text.table(("purifier", "default", "what it does", "gradient", "random", "paper"), cells))
