"""From cells to a report: tables and frontiers. Nothing is measured here, and no image or network is needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from apibench.errors import ApibenchError
from apibench.evaluation import cells, latex, plots, tables
from apibench.evaluation.cells import RUN, display, slug
from apibench.evaluation.comparison import Results
from apibench.imageset import write_atomically


@dataclass(frozen=True)
class Written:
    """What was written: ``report.md``, ``accuracy.csv``, ``accuracy.tex``, ``matched.csv`` and a plot an attack."""

    report: Path
    plots: tuple[Path, ...]


def write(out: Path) -> Written:
    """Make the report of ``out`` from the cells of its recipe in ``out/cells``. The same cells give the same bytes.

    Raises ApibenchError where there are no cells, or one cannot be read.
    """
    if not cells.files(out / "cells"):
        raise ApibenchError(f"{out}: there are no results yet")
    name, reference, notes, wanted = _run(out)
    found = cells.read_all(out / "cells", wanted)
    left_out = len(cells.files(out / "cells")) - len(found)
    results = Results(found)
    drawn = []
    for threat in results.threats:
        families = plots.points(results, threat)
        if sum(map(len, families.values())) < 2:
            continue
        asked = max((results.asked(threat, setting) for setting in results.settings), key=len)
        subtitle = "mean over " * (len(asked) > 1) + ", ".join(display(classifier) for classifier in asked)
        path = out / f"frontier-{slug(threat.attack)}{'-aware' if threat.aware else ''}.svg"
        svg = plots.frontier_svg(families, threat.label, subtitle, reference, results.families)
        write_atomically(path, svg.encode())
        drawn.append(path)
    computed = tables.Tables.of(results, reference)
    text = tables.markdown(computed, name, notes, left_out)
    if drawn:
        text += "\n## Frontiers\n\n" + "\n\n".join(f"![{path.stem}]({path.name})" for path in drawn) + "\n"
    write_atomically(out / "accuracy.csv", tables.accuracy_csv(computed).encode())
    write_atomically(out / "accuracy.tex", latex.accuracy(computed).encode())
    write_atomically(out / "matched.csv", tables.matched_csv(computed).encode())
    write_atomically(out / "report.md", text.encode())
    return Written(out / "report.md", tuple(drawn))


def _run(out: Path) -> tuple[str, str, list[str], list[str] | None]:
    """The name, the reference family and the notes that the recipe gave, and its files of cells (None: not said)."""
    try:
        content = json.loads((out / RUN).read_text(encoding="utf-8"))
        notes, wanted = [str(note) for note in content["notes"]], content.get("cells")
        return str(content["name"]), str(content["reference"]), notes, None if wanted is None else list(wanted)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ApibenchError(f"{out / RUN}: not readable; run 'apibench evaluate' on this folder again") from error
