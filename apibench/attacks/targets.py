"""The class that a targeted attack moves an image towards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from apibench import photographs
from apibench._torch import torch
from apibench.attacks.catalogue import LEAST_LIKELY, RANDOM
from apibench.draws import Draws, generator
from apibench.errors import ApibenchError
from apibench.imageset import ImageRecord


def read_targets(path: Path, records: Sequence[ImageRecord]) -> dict[str, int]:
    """The class given for each image of a set, by id: CSV with the columns ``file`` (a file name, or an id) and ``target``.

    Raises ApibenchError where the file says nothing of an image, two things, or the image's own class.
    """
    found: dict[str, int] = {}
    ids = {record.id for record in records}
    for name, target in photographs.read_labels(path, "target").items():
        for id in ids.intersection(photographs.possible_ids(name)):
            if found.setdefault(id, target) != target:
                raise ApibenchError(f"{path}: a second, different target for {id}, as {name!r}")
    missing = [record.id for record in records if record.id not in found]
    if missing:
        raise ApibenchError(
            f"{path}: names no target for {len(missing)} of {len(records)} images, such as {missing[0]}"
        )
    for record in records:
        if found[record.id] == record.label:
            raise ApibenchError(f"{path}: {record.id}: its target, {record.label}, is its own class")
    return found


def target(aim: str, record: ImageRecord, label: int, logits: torch.Tensor, seed: int, given: Mapping[str, int]) -> int:
    """The class to move an image of class ``label`` towards. ``logits``: (classes,) of the ensemble on the clean image.

    Raises ApibenchError where the ``given`` class is the image's own, or not one of the ensemble's.
    ``random`` has a generator of its own, by the seed and the image's identity: the attack's draws are those of any other aim.
    """
    classes = len(logits)
    if aim == LEAST_LIKELY:
        others = logits.clone()
        others[label] = torch.inf  # where the ensemble is that wrong, the next one
        return int(others.argmin())
    if aim == RANDOM:
        drawn = Draws([generator(seed, f"{record.pixels_sha256}/target")]).whole(classes - 1)[0]
        return drawn + (drawn >= label)
    if given[record.id] >= classes:
        raise ApibenchError(f"{record.id}: target {given[record.id]}: the surrogates have {classes} classes")
    if given[record.id] == label:
        raise ApibenchError(
            f"{record.id}: its target, {label}, is the class that the surrogates see in it; give another"
        )
    return given[record.id]
