"""The tables of an evaluation as LaTeX for a paper."""

from __future__ import annotations

from apibench import text
from apibench.evaluation.tables import Tables, accuracy_grid, standard_grid
from apibench.grid import emphasised

_ACCURACY = (
    "In per cent with 95 % intervals (Wilson's; of a mean, a bootstrap over images). *Standard*: clean images, purified, over "
    "the images of the attack. *Robust*: adversarial images, purified; the attack does not know the purifier (*blind*) or goes "
    "through it (*aware*)."
)


def accuracy(tables: Tables) -> str:
    """A table of standard accuracy, and one for each attack."""
    caption = emphasised("Standard accuracy of all clean images, purified. In per cent with 95 % intervals.")
    parts = [standard_grid(tables.results).latex(caption, "tab:standard")]
    for number, (attack, members) in enumerate(tables.by_attack.items(), 1):
        aware = sorted({row.aware_by for row in members if row.aware_by and row.aware_by != attack})
        caption = f"Accuracy under {text.latex(attack)}. {emphasised(_ACCURACY)}"
        if aware:
            caption += f" The aware column is of {text.latex(', '.join(aware))}, of the same bound."
        parts.append(accuracy_grid(members).latex(caption, f"tab:accuracy-{number}"))
    return "\n".join(parts)
