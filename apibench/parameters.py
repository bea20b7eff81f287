"""Numbers that may follow a name: ``jpeg:50``, ``di:0.9,0.906``. Imports no torch: ``--help`` reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Value = int | float


@dataclass(frozen=True)
class Parameter:
    """A number after the colon, ``lower`` to ``upper``, whole where its default is."""

    name: str  # as help shows it, QUALITY
    default: Value
    lower: Value
    upper: Value
    odd: bool = False

    def parse(self, text: str) -> Value:
        """Raises ValueError saying what is wanted."""
        whole = isinstance(self.default, int)
        try:
            value: Value = int(text) if whole else float(text)
        except ValueError:
            value = float("nan")
        if not self.lower <= value <= self.upper or (self.odd and value % 2 == 0):
            what = "an odd number" if self.odd else "a whole number" if whole else "a number"
            raise ValueError(f"{self.name} must be {what} from {self.lower:g} to {self.upper:g}, got {text!r:.60}")
        return value


def read(parameters: Sequence[Parameter], argument: str | None) -> list[Value]:
    """The numbers after the colon; what is left out has its default. Raises ValueError."""
    given = [] if argument is None else argument.split(",")
    if len(given) > len(parameters):
        raise ValueError(f"{argument!r:.60} is more than it takes")
    values = [parameter.default for parameter in parameters]
    for index, text in enumerate(given):
        values[index] = parameters[index].parse(text)
    return values


def written(values: Sequence[Value]) -> str:
    """Numbers as they stand after a colon: ``5,1.5``."""
    return ",".join(format(value, ".12g") for value in values)
