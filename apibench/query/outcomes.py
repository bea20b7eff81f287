"""What an adapter gives back, held against the contract before anything relies on it: an adapter is somebody's package."""

from __future__ import annotations

import math
from collections.abc import Sequence

from apibench.query.contract import Answer, ErrorKind, Label, Outcome, Parsed, ProviderError


def checked(outcomes: object, images: int) -> list[Outcome]:
    """One outcome for each of so many images.

    What is none becomes an error of which it is not known whether it was billed. A raw reply is kept wherever there is one.
    """
    if isinstance(outcomes, Sequence) and len(outcomes) == images:
        return [_checked(outcome) for outcome in outcomes]
    many = len(outcomes) if isinstance(outcomes, Sequence) else type(outcomes).__name__
    return [_wrong(f"{many} outcomes for {images} images")] * images


def of_a_batch(outcome: Outcome, images: int) -> Outcome:
    """A refusal of a whole request, as what it is of one of its images: no refusal of it for good."""
    if isinstance(outcome, Answer) or outcome.kind is not ErrorKind.REJECTED:
        return outcome
    return ProviderError(
        ErrorKind.PROTOCOL,
        f"a request with {images} images was refused: {outcome.message}",
        code=outcome.code,
        status=outcome.status,
        raw=outcome.raw,
        uncertain=outcome.uncertain,
        sent=outcome.sent,
    )


def _checked(outcome: object) -> Outcome:
    if isinstance(outcome, ProviderError):
        return (
            outcome if _is_error(outcome) else _wrong("an error whose fields are not of the contract's types", outcome)
        )
    if isinstance(outcome, Answer):
        return (
            outcome
            if _is_answer(outcome)
            else _wrong("an answer whose fields are not of the contract's types", outcome)
        )
    return _wrong(f"{type(outcome).__name__} in place of an outcome")


def _is_answer(answer: Answer) -> bool:
    parsed = answer.parsed
    return (
        isinstance(answer.raw, bytes)
        and _is_text(answer.request_id)
        and isinstance(parsed, Parsed)
        and _is_text(parsed.model_version)
        and isinstance(parsed.labels, Sequence)
        and all(_is_label(label) for label in parsed.labels)
    )


def _is_label(label: object) -> bool:
    return (
        isinstance(label, Label)
        and isinstance(label.name, str)
        and _is_number(label.score)
        and _is_text(label.id)
        and isinstance(label.parents, Sequence)
        and all(isinstance(parent, str) for parent in label.parents)
    )


def _is_error(error: ProviderError) -> bool:
    return (
        isinstance(error.kind, ErrorKind)
        and (error.status is None or isinstance(error.status, int))
        and (error.retry_after is None or _is_number(error.retry_after))
        and isinstance(error.uncertain, bool)
        and isinstance(error.sent, bool)
    )


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _wrong(what: str, outcome: Answer | ProviderError | None = None) -> ProviderError:
    raw = outcome.raw if outcome is not None and isinstance(outcome.raw, bytes) else None
    return ProviderError(ErrorKind.PROTOCOL, f"the adapter gave {what}", raw=raw, uncertain=True)
