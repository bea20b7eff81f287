"""``apibench labels``: which ImageNet classes a vendor's label names, and why."""

from __future__ import annotations

import json

import click

from apibench import text
from apibench.labels.match import RULE, RULE_VERSION

HELP = f"""The label map: does a vendor's label name an image's ImageNet class?

The rule, version {RULE_VERSION}: {RULE}.
"""


@click.group(help=HELP)
def labels() -> None:
    pass


@labels.command()
@click.argument("label")
@click.option("--class", "given", metavar="CLASS", help="An ImageNet class: its number, WordNet id or name.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for a program.")
def explain(label: str, given: str | None, as_json: bool) -> None:
    """Say whether LABEL names a class, by which rule and on what path; without --class, which classes it names.

    \b
    apibench labels explain "Golden Retriever" --class 207
    apibench labels explain Dog --class "golden retriever"
    apibench labels explain Crane
    """
    from apibench.labels.explain import find_class, matches, why_not
    from apibench.labels.match import match

    entry = find_class(given) if given is not None else None
    found = matches(label) if entry is None else [(entry, match(label, entry.index))]
    index = entry.index if entry else None
    refused = None if any(matched.matched for _, matched in found) else why_not(label, index)
    if as_json:
        rows = [
            {
                "index": each.index,
                "synset": each.synset,
                "name": each.name,
                "matched": matched.matched,
                "rule": matched.rule,
                "via": matched.via,
                "depth": matched.depth,
            }
            for each, matched in found
        ]
        answer = {"label": label, "rule_version": RULE_VERSION, "classes": rows, "why_not": refused}
        click.echo(json.dumps(answer, indent=1, ensure_ascii=False))
        return
    shown = text.plain(label, 80)
    if refused is not None:
        click.echo(f"{shown} does not name {f'{entry.index} {entry.name}' if entry else 'any class'}: {refused}.")
    else:
        rows_shown = [
            (str(each.index), each.synset, text.markdown(each.name), matched.rule, text.markdown(matched.via))
            for each, matched in found
        ]
        click.echo(f"{shown} names {f'{entry.index} {entry.name}' if entry else f'{len(found)} of 1,000 classes'}:\n")
        click.echo(text.table(("class", "WordNet id", "name", "rule", "path"), rows_shown, right=(0,)))
    click.echo(f"\nLabel map, version {RULE_VERSION}; its rule: apibench labels --help")
