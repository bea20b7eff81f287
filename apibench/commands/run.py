"""``apibench run``: a recipe, all its stages."""

from __future__ import annotations

from pathlib import Path

import click

from apibench.errors import ExitCode
from apibench.options import FOLDER, THREADS
from apibench.terminal import list_failed, use_threads


@click.command()
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

    file = recipes.find(recipe)
    loaded = recipes.load(file, images=images, out=out)
    if dry_run:
        runs.check(loaded)
        for plan in runs.plans(loaded):
            click.echo(plan)
        for line in runs.providers(loaded)[1]:
            click.echo(line)
        return ExitCode.DONE
    use_threads(threads, "cpu")
    runs.check(loaded)
    result = runs.run(loaded, click.echo, file.read_bytes())
    click.echo("\n" + result.summary)
    click.echo(f"store:  {result.store}\nreport: {result.report}\npage:   {result.page}")
    list_failed([("", problem) for problem in result.problems], 0)
    return result.exit_code
