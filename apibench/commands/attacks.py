"""``apibench attacks``: the parts that an attack is put together from."""

from __future__ import annotations

import json

import click

from apibench import text
from apibench.attacks.catalogue import ENSEMBLE, GRADIENT, LOSS, TRANSFORM, Part, describe
from apibench.attacks.composition import DEFAULTS
from apibench.parameters import written

COMBINING = f"""
An attack is its parts joined by hyphens, in any order: one gradient rule ({DEFAULTS[GRADIENT]}, if none is named), any number
of transforms, applied in the order they are named (di and ti come last wherever they stand: it makes no difference), one
ensemble rule ({DEFAULTS[ENSEMBLE]}) and one loss ({DEFAULTS[LOSS]}).
Numbers follow a colon: vmi:5-di:0.7; those left out have their defaults (ssa's noise is 16 levels, its paper's epsilon: at
epsilon 8 write ssa:20,8). Gradients a step are of each surrogate, here with
the default numbers; those of an attack are the product of its parts'. Everything goes together, but for:
"""
_TITLES = {GRADIENT: "gradient rule", TRANSFORM: "transform", ENSEMBLE: "ensemble rule", LOSS: "loss"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, for a program.")
def attacks(as_json: bool) -> None:
    """List the parts of attacks: how each is written, what it costs, the paper it is from, and what goes together.

    \b
    apibench generate --images photos --out sets/adv --attack vmi:5-di-ti
    """
    parts = describe()
    if as_json:
        click.echo(json.dumps([_row(part) for part in parts], indent=1, ensure_ascii=False))
        return
    cells = [
        (
            f"`{text.plain(part.form)}`",
            f"`{written(part.defaults)}`" if part.defaults else "",
            _TITLES[part.kind],
            str(part.gradients(part.defaults)),
            " ".join(part.norms),
            text.markdown(part.does),
        )
        for part in parts
    ]
    head = ("part", "defaults", "kind", "gradients a step", "norms", "what it does")
    click.echo(text.table(head, cells, right=(3,)))
    click.echo("\nPapers:\n")
    click.echo("\n".join(f"- {part.name}: {text.markdown(part.paper)}" for part in parts))
    click.echo(COMBINING)
    click.echo("\n".join(_exceptions(parts)))


def _row(part: Part) -> dict[str, object]:
    return {
        "name": part.name,
        "kind": part.kind,
        "form": part.form,
        "parameters": {
            parameter.name: {"default": parameter.default, "lower": parameter.lower, "upper": parameter.upper}
            for parameter in part.parameters
        },
        "does": part.does,
        "paper": part.paper,
        "gradients_per_step": part.gradients(part.defaults),
        "norms": list(part.norms),
        "only_with": list(part.only_with),
        "not_with": list(part.not_with),
        "targeted": part.targeted,
    }


def _exceptions(parts: list[Part]) -> list[str]:
    """What does not go together, a line a part."""
    lines = []
    for part in parts:
        limits = []
        if part.only_with:
            limits.append(f"replaces the update itself: only with {' or '.join(part.only_with)}")
        if part.not_with:
            limits.append(f"not with {' or '.join(part.not_with)}")
        if part.targeted:
            limits.append("targeted attacks only")
        if limits:
            lines.append(text.plain(f"- {part.name}: {'; '.join(limits)}"))
    return lines
