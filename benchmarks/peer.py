"""TransferAttack on classifiers of one's own, with or without a GPU: adapted from outside, none of its code in here.

    git clone https://github.com/Trustworthy-AI-Group/TransferAttack DIR

``DIR`` is the folder that its package ``transferattack`` lies in. What does not let it run elsewhere is changed as the files are
read, in memory: calls that move something to a GPU, and noise of 224 x 224 pixels whatever the size of the image.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import inspect
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np

from apibench._torch import torch
from apibench.errors import ApibenchError

Tensor = torch.Tensor
PACKAGE = "transferattack"

#: In its files: what is read, and what is run.
CHANGES = {
    ".cuda()": "",
    "torch.randn(x.size()[0], 3, 224, 224)": "torch.randn(x.shape)",
}


class _Changed(importlib.machinery.SourceFileLoader):
    """A loader of its files with changes; compiled files are neither read nor left behind."""

    changes: Mapping[str, str] = CHANGES

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        text = Path(path).read_text(encoding="utf-8")
        for theirs, ours in self.changes.items():
            text = text.replace(theirs, ours)
        code: CodeType = self.source_to_code(text.encode(), path)
        return code


class _Finder:
    """On ``sys.meta_path``: the package and its modules, each through the loader above."""

    def __init__(self, folder: Path, changes: Mapping[str, str]) -> None:
        self.folder = str(folder)
        self.changes = changes

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != PACKAGE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path or [self.folder], target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = loader = _Changed(spec.loader.name, spec.loader.path)
            loader.changes = self.changes
        return spec


def find(folder: Path, changes: Mapping[str, str] | None = None) -> None:
    """Make the package of ``folder`` the one that is imported, with more ``changes``. Raises ApibenchError without one."""
    if not (folder / PACKAGE / "__init__.py").is_file():
        raise ApibenchError(f"{folder}: has no package {PACKAGE}; clone TransferAttack, and name the clone")
    sys.meta_path.insert(0, _Finder(folder, {**CHANGES, **(changes or {})}))  # type: ignore[arg-type]


class Counted(torch.nn.Module):
    """A classifier that counts the images of which a gradient was taken back through it."""

    def __init__(self, classifier: torch.nn.Module) -> None:
        super().__init__()
        self.classifier = classifier
        self.gradients = 0

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(torch.Tensor.contiguous)  # as of a network that is not channels_last: some take views of it
        logits: Tensor = self.classifier(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.gradients += len(gradient)


@dataclass(frozen=True)
class Attack:
    """One of its attacks. ``arguments``: those of its class, or numbers that it keeps and its class does not take."""

    name: str
    arguments: tuple[tuple[str, float | str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Attack:
        """``NAME[:KEY=VALUE,...]``, such as ``bsr:num_scale=2``. Raises ApibenchError."""
        name, _, rest = text.partition(":")
        pairs = [pair.partition("=") for pair in rest.split(",") if pair]
        if any(not (key and value) for key, _, value in pairs):
            raise ApibenchError(f"{text}: write NAME:KEY=VALUE,KEY=VALUE")
        return cls(name, tuple((key, _number(value)) for key, _, value in pairs))

    @property
    def text(self) -> str:
        written = ",".join(f"{key}={value}" for key, value in self.arguments)
        return f"{self.name}:{written}" if written else self.name

    def make(self, networks: Sequence[torch.nn.Module], epsilon: float, steps: int, **more: Any) -> Any:
        """Of its class, made anew: some carry something from image to image.

        ``networks``: given to it as its own ensemble, of which all but its ensemble attacks take the mean of the logits.
        ``epsilon``: in levels of 255; the step is epsilon / ``steps``. What its classes have as a number of their own, for an
        epsilon of 16, grows and shrinks with epsilon. Raises ApibenchError for an attack or an argument that it has not.
        """
        package = importlib.import_module(PACKAGE)
        try:
            kind = package.load_attack_class(self.name)
        except (Exception, SystemExit) as error:
            raise ApibenchError(f"{self.name}: not to be had from TransferAttack ({error})") from error
        utilities = importlib.import_module(f"{PACKAGE}.utils")
        ensemble = utilities.EnsembleModel(list(networks))
        kind = type(kind.__name__, (kind,), {"load_model": lambda _, __: ensemble})
        known = inspect.signature(kind.__init__).parameters
        given = {"epsilon": epsilon / 255, "alpha": epsilon / 255 / steps, "epoch": steps, "device": ensemble.device}
        given |= {key: value for key, value in _scaled(self.name, epsilon, steps).items() if key in known}
        given |= {**more, **{key: value for key, value in self.arguments if key in known}}
        made = kind(model_name=[f"network {number}" for number in range(len(networks))], **given)
        for key, value in self.arguments:
            if key not in known:
                if not hasattr(made, key):
                    raise ApibenchError(f"{self.text}: {self.name} has no {key}")
                setattr(made, key, value)
        return made


def _scaled(name: str, epsilon: float, steps: int) -> dict[str, float]:
    """What its classes write as numbers, for an epsilon of 16 and ten steps."""
    if name == "cwa":
        return {"alpha": 2 * epsilon / 255 / steps, "r_size": epsilon / 255 / 15}
    return {"gamma": epsilon} if name == "pifgsm" else {}


def _number(text: str) -> float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def seeded(seed: int, run: Callable[[], Tensor]) -> Tensor:
    """``run`` with all three of the generators it draws from at ``seed``."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    return run()
