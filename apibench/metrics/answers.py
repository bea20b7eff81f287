"""What two answers about one image have in common."""

from __future__ import annotations

from collections.abc import Sequence

from apibench.query.contract import Label


def drop_returned_parents(labels: Sequence[Label]) -> tuple[Label, ...]:
    """The labels without those that another one of them names as its parent ("Animal" beside "Dog"), order kept.

    A vendor that returns an object returns its ancestors as well, at no lower score: they would agree for any two animals.
    Labels that are one another's parents in a circle have no most specific one, so all of them stay if nothing else would.
    """
    parents = {parent for label in labels for parent in label.parents if parent not in (label.name, label.id)}
    kept = tuple(
        label for label in labels if label.name not in parents and (label.id is None or label.id not in parents)
    )
    return kept or tuple(labels)


def identity(label: Label) -> str:
    """By what two labels are the same one: the vendor's own id, where it has one, else the name."""
    return label.name if label.id is None else label.id


def top1_agreement(clean: Sequence[Label], variant: Sequence[Label]) -> bool:
    """Whether the variant's first label is the clean image's first one. ``clean`` must not be empty."""
    return topk_agreement(clean, variant, 1)


def topk_agreement(clean: Sequence[Label], variant: Sequence[Label], k: int) -> bool:
    """Whether the clean image's first label is among the variant's first k. ``clean`` must not be empty."""
    return identity(clean[0]) in {identity(label) for label in variant[:k]}


def overlap_at_k(clean: Sequence[Label], variant: Sequence[Label], k: int) -> float:
    """The share, in [0, 1], of the clean image's first k labels that are among the variant's first k."""
    wanted = {identity(label) for label in clean[:k]}
    return len(wanted & {identity(label) for label in variant[:k]}) / len(wanted)


def score_shift(clean: Sequence[Label], variant: Sequence[Label]) -> float | None:
    """How far the score of the clean image's first label fell, in [-1, 1]: its clean score less its score for the variant.

    None where the variant's answer does not have that label: its score there is not known. ``clean`` must not be empty.
    """
    wanted = identity(clean[0])
    return next((clean[0].score - label.score for label in variant if identity(label) == wanted), None)


def tied_at(labels: Sequence[Label], k: int) -> bool:
    """Whether the k-th and the next label have the same score, so that only the vendor's order decides which is in."""
    return len(labels) > k and labels[k - 1].score == labels[k].score
