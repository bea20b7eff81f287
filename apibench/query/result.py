"""What a run of the engine did, for a person and for an exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from apibench.errors import ExitCode
from apibench.query.policy import OnUncertain, RetryPolicy
from apibench.query.store import Key, Lost, ResponseStore


@dataclass(frozen=True)
class Question:
    """An image to ask about. ``read`` gives its bytes, and is called only if it has to be sent."""

    sha256: str
    name: str
    read: Callable[[], bytes]


class HaltReason(StrEnum):
    """Why a run stopped before its end."""

    CAP = "cap"
    CREDENTIALS = "credentials"
    QUOTA = "quota"
    FAILING = "failing"
    STORE = "store"


@dataclass
class QueryReport:
    """What a run did. ``failed``, ``rejected`` and ``left`` are (image, reason); ``sent`` counts requests put on the wire.

    ``left``: images that are not asked about again because an answer of theirs, or a second one, may have been lost.
    ``versions``: how many stored answers each model version gave under the key, the earlier ones included.
    """

    images: int = 0
    stored: int = 0
    answered: int = 0
    sent: int = 0
    uncertain: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)
    rejected_before: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)
    halted: HaltReason | None = None
    message: str = ""

    @classmethod
    def before(
        cls,
        questions: Mapping[str, Question],
        store: ResponseStore,
        key: Key,
        on_uncertain: OnUncertain = OnUncertain.ASK_AGAIN,
        policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is frozen
    ) -> QueryReport:
        """The report of a run that has sent nothing yet: what is stored, and what is not sent again, with the reason."""
        settled, refusals = store.settled(key), store.refusals(key)
        lost = left_before(store, key, on_uncertain, policy)
        return cls(
            images=len(questions),
            stored=sum(settled.get(sha256) == "answered" for sha256 in questions),
            rejected_before=[
                (question.name, f"{refusals[sha256]} (refused before; not sent again)")
                for sha256, question in questions.items()
                if settled.get(sha256) == "rejected"
            ],
            left=[
                (question.name, left_as(lost[sha256].last)) for sha256, question in questions.items() if sha256 in lost
            ],
            versions=Counter(store.versions(key)),
        )

    @property
    def open(self) -> int:
        """Images that are to be asked about, before anything is sent."""
        return self.images - self.stored - len(self.rejected_before) - len(self.left)

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Every image that has no answer although there was a question, and why."""
        return self.failed + self.rejected + self.rejected_before + self.left

    def hint(self, how: str = f"--on-uncertain {OnUncertain.INSIST}") -> str | None:
        """How to ask all the same, where images are left; ``how``: as it is said where the query was asked for."""
        if not self.left:
            return None
        return (
            f"{len(self.left)} left uncertain: their answers may have been lost, and billed; "
            f"{how} asks about each once more, and may pay for it again"
        )

    @property
    def model_change(self) -> str | None:
        """A line where answers under one key are of more than one model version."""
        if len(self.versions) < 2:
            return None
        counts = ", ".join(f"{version} ({count})" for version, count in sorted(self.versions.items()))
        return (
            f"the vendor's model has changed: answers are of the versions {counts}; they are kept apart, and an image is "
            "compared only where one version answered all of its variants (another --campaign asks about all of them anew)"
        )

    @property
    def exit_code(self) -> ExitCode:
        if self.halted is HaltReason.CAP:
            return ExitCode.CAP_REACHED
        if self.halted is not None:
            return ExitCode.SOME_FAILED if self.answered else ExitCode.NOTHING_DONE
        return ExitCode.SOME_FAILED if self.problems else ExitCode.DONE


def left_before(store: ResponseStore, key: Key, on_uncertain: OnUncertain, policy: RetryPolicy) -> dict[str, Lost]:
    """The images that are not asked about because of what earlier starts lost, by SHA-256."""
    if on_uncertain is OnUncertain.INSIST:
        return {}
    most = policy.most_lost(on_uncertain)
    return {sha256: lost for sha256, lost in store.uncertain(key).items() if lost.times > most}


def left_as(reason: str) -> str:
    """What stands beside an image that is left."""
    return f"left uncertain: {reason}"
