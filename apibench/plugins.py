"""A table of what there is by name: what comes with apibench, what was registered, and what installed packages add."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar

from apibench.errors import ApibenchError


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Table(Generic[T]):
    """Things of one type by name. A package adds one by an entry point of its name in ``group``.

    ``what`` is the thing in messages ("purifier"). No name may mean two things.
    """

    def __init__(self, what: str, group: str, type_: type[Any], own: Iterable[T]) -> None:
        self.what = what
        self.group = group
        self._type = type_
        self._own = {thing.name: thing for thing in own}

    def register(self, thing: T) -> None:
        """Add one to this process. Raises ApibenchError where there is another one of its name."""
        if self._own.get(thing.name, thing) != thing or thing.name in self._installed():
            raise ApibenchError(f"{thing.name}: there is {self._a} of this name already")
        self._own[thing.name] = thing

    def forget(self, name: str) -> None:
        """Take one out of this process again."""
        self._own.pop(name, None)

    def names(self) -> list[str]:
        return sorted({*self._own, *self._installed()})

    def find(self, name: str) -> T:
        """Raises ApibenchError where there is none of that name, or more than one, or it cannot be imported."""
        points = self._installed().get(name, [])
        if len(points) + (name in self._own) > 1:
            where = ", ".join(point.value for point in points)
            raise ApibenchError(f"{name}: more than one {self.what} has this name ({where}); uninstall one")
        if points:
            return self._load(points[0])
        if name not in self._own:
            close = difflib.get_close_matches(name, self.names(), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ApibenchError(
                f"{name or '(nothing)'}: no such {self.what}; there are {', '.join(self.names())}{hint}"
            )
        return self._own[name]

    @property
    def _a(self) -> str:
        return f"{'an' if self.what[0] in 'aeiou' else 'a'} {self.what}"

    def _installed(self) -> Mapping[str, list[EntryPoint]]:
        return _by_name(entry_points, self.group)

    def _load(self, point: EntryPoint) -> T:
        try:
            thing = point.load()
        except Exception as error:  # a plug-in is somebody's package: it may fail to import in any way
            raise ApibenchError(f"{point.name}: cannot be loaded ({type(error).__name__}: {error!s:.120})") from error
        if not isinstance(thing, self._type) or thing.name != point.name:
            where = f"{self._type.__module__.rpartition('.')[0]}.{self._type.__name__}"
            raise ApibenchError(f"{point.name}: {point.value} is not the {self._type.__name__} of that name ({where})")
        return thing  # type: ignore[no-any-return]


@cache
def _by_name(look: Callable[..., Iterable[EntryPoint]], group: str) -> Mapping[str, list[EntryPoint]]:
    """What is installed in a group, by name. Once a process: every look reads the metadata of all packages (11 ms)."""
    found: dict[str, list[EntryPoint]] = {}
    for point in look(group=group):
        found.setdefault(point.name, []).append(point)
    return found
