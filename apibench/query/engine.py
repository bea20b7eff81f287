"""The engine: sends what has no stored answer yet, and alone decides on retries, rate, budget and when to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from enum import StrEnum

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, stop_when_event_set
from tenacity.wait import wait_random_exponential

from apibench.errors import ApibenchError, ExitCode
from apibench.query.contract import Answer, EncodedImage, ErrorKind, Outcome, Provider, ProviderError
from apibench.query.store import Key, ResponseStore

RETRIED = frozenset({ErrorKind.THROTTLED, ErrorKind.TRANSIENT, ErrorKind.PROTOCOL})
STOPS_THE_RUN = frozenset({ErrorKind.CREDENTIALS, ErrorKind.QUOTA})


@dataclass(frozen=True)
class Question:
    """An image to ask about. ``read`` gives its bytes, and is called only if it has to be sent."""

    sha256: str
    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class RetryPolicy:
    """At most ``attempts`` requests an image and run; waits grow from ``first`` to ``longest`` seconds, with jitter.

    A request whose answer was lost may have been billed: an image is asked about again after ``uncertain`` of those.
    """

    attempts: int = 5
    uncertain: int = 1
    first: float = 0.5
    longest: float = 30.0
    longest_retry_after: float = 300.0

    def wait(self, state: RetryCallState) -> float:
        """Seconds until the next attempt: what the vendor asked for, else exponential back-off with full jitter."""
        assert state.outcome is not None
        again = state.outcome.exception()
        if isinstance(again, _Again) and again.error.retry_after is not None:
            return min(again.error.retry_after, self.longest_retry_after)
        return wait_random_exponential(multiplier=self.first, max=self.longest)(state)


class HaltReason(StrEnum):
    """Why a run stopped before its end."""

    CAP = "cap"
    CREDENTIALS = "credentials"
    QUOTA = "quota"
    FAILING = "failing"
    STORE = "store"


@dataclass
class QueryReport:
    """What a run did. ``failed`` and ``rejected`` are (image, reason); ``sent`` counts requests put on the wire."""

    images: int = 0
    stored: int = 0
    answered: int = 0
    sent: int = 0
    uncertain: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)
    rejected_before: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    halted: HaltReason | None = None
    message: str = ""

    @classmethod
    def before(cls, questions: Mapping[str, Question], store: ResponseStore, key: Key) -> QueryReport:
        """The report of a run that has sent nothing yet: what is stored, and what was refused before, with the reason."""
        settled, refusals = store.settled(key), store.refusals(key)
        return cls(
            images=len(questions),
            stored=sum(settled.get(sha256) == "answered" for sha256 in questions),
            rejected_before=[
                (question.name, f"{refusals[sha256]} (refused before; not sent again)")
                for sha256, question in questions.items()
                if settled.get(sha256) == "rejected"
            ],
        )

    @property
    def open(self) -> int:
        """Images without a stored outcome, before anything is sent."""
        return self.images - self.stored - len(self.rejected_before)

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Every image that was asked about and has no answer, and why."""
        return self.failed + self.rejected + self.rejected_before

    @property
    def exit_code(self) -> ExitCode:
        if self.halted is HaltReason.CAP:
            return ExitCode.CAP_REACHED
        if self.halted is not None:
            return ExitCode.SOME_FAILED if self.answered else ExitCode.NOTHING_DONE
        return ExitCode.SOME_FAILED if self.problems else ExitCode.DONE


class _Again(Exception):  # noqa: N818 - not an error that leaves this module
    """Some images of a batch are to be asked about again."""

    def __init__(self, error: ProviderError) -> None:
        super().__init__(error.message)
        self.error = error


class _Halted(Exception):  # noqa: N818
    """The run is stopping: nothing more is sent."""


class RateLimiter:
    """A token bucket of one: requests start at least 1/rate seconds apart, whatever thread sends them."""

    def __init__(self, per_second: float | None) -> None:
        self._gap = 1.0 / per_second if per_second else 0.0
        self._next = 0.0
        self._mutex = threading.Lock()

    def acquire(self, stop: threading.Event) -> None:
        with self._mutex:
            at = max(time.monotonic(), self._next)
            self._next = at + self._gap
        stop.wait(max(0.0, at - time.monotonic()))


class Engine:
    """One run over a list of questions. The store's lock is held by whoever opened the store."""

    failures_in_a_row = 5

    def __init__(
        self,
        provider: Provider,
        store: ResponseStore,
        key: Key,
        *,
        price: float | None = None,
        max_calls: int | None = None,
        batch: int = 1,
        concurrency: int = 4,
        per_second: float | None = None,
        policy: RetryPolicy | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.provider = provider
        self.store = store
        self.key = key
        self.price = price
        self.max_calls = max_calls
        # One image a request, unless told: an answer that is lost is then one image's, and a call is what is billed.
        self.batch = min(batch, provider.info.max_batch)
        self.concurrency = concurrency
        self.policy = policy or RetryPolicy()
        self.progress = progress
        self.report = QueryReport()
        self._limiter = RateLimiter(per_second)
        self._stop = threading.Event()
        self._mutex = threading.Lock()
        self._failures = 0
        self._last_error = ""

    def run(self, questions: Sequence[Question]) -> QueryReport:
        """Ask about every image that has no stored answer or refusal under the key; the others are never sent again."""
        unique = {question.sha256: question for question in questions}
        settled = self.store.settled(self.key)
        self.report = QueryReport.before(unique, self.store, self.key)
        open_ = [question for sha256, question in unique.items() if sha256 not in settled]
        self.progress(len(unique) - len(open_))
        batches = _Shared(_batches(open_, self.batch))
        workers = max(1, min(self.concurrency, len(open_)))
        with ThreadPoolExecutor(workers, thread_name_prefix="query") as pool:
            futures = [pool.submit(self._work, batches) for _ in range(workers)]
            try:
                wait(futures)
            except KeyboardInterrupt:
                self._stop.set()  # requests in flight are finished and stored; leaving the block waits for them
                raise
        for future in futures:
            future.result()
        return self.report

    def _work(self, batches: _Shared) -> None:
        while not self._stop.is_set():
            batch = batches.take()
            if batch is None:
                return
            try:
                self._ask(batch)
            except _Halted:
                return
            except ApibenchError as error:  # the store cannot be written: nothing more is sent
                self._halt(HaltReason.STORE, str(error))
                return
            except BaseException:
                self._stop.set()
                raise

    def _ask(self, batch: Sequence[Question]) -> None:
        """Ask about a batch until each image has an outcome, or the policy says enough."""
        images = self._read(batch)
        waiting = {question.sha256: question for question in batch if question.sha256 in images}
        uncertain = dict.fromkeys(waiting, 0)
        if not waiting:
            return
        retrying = Retrying(
            stop=stop_after_attempt(self.policy.attempts) | stop_when_event_set(self._stop),
            wait=self.policy.wait,
            retry=retry_if_exception_type(_Again),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            retrying(self._send, images, waiting, uncertain)
        except _Again as again:
            if self._stop.is_set():
                return  # not given up: the run is stopping, and the next one asks again
            for question in waiting.values():
                self._give_up(question, again.error)

    def _read(self, batch: Sequence[Question]) -> dict[str, EncodedImage]:
        """The images of a batch; one that cannot be read (gone, changed) is listed as failed, and the others go on."""
        images = {}
        for question in batch:
            try:
                images[question.sha256] = EncodedImage(question.read(), question.sha256)
            except ApibenchError as error:
                with self._mutex:
                    self.report.failed.append((question.name, str(error)))
                self.progress(1)
        return images

    def _send(self, batch: dict[str, EncodedImage], waiting: dict[str, Question], uncertain: dict[str, int]) -> None:
        """One request. Takes out of ``waiting`` what needs no other; raises _Again where something is left."""
        images = [batch[sha256] for sha256 in waiting]
        self._limiter.acquire(self._stop)
        if self._stop.is_set():
            raise _Halted
        attempts = self.store.begin(self.key, [i.sha256 for i in images], price=self.price, cap=self.max_calls)
        if attempts is None:
            self._halt(
                HaltReason.CAP,
                f"--max-calls {self.max_calls} reached for campaign {self.key.campaign!r}; "
                "the answers so far are stored, a larger cap goes on from there"
                + (f". The last error: {self._last_error}" if self._last_error else ""),
            )
            raise _Halted
        with self._mutex:
            self.report.sent += 1
        started = time.monotonic()
        outcomes = self._outcomes(images)
        latency = time.monotonic() - started
        again: ProviderError | None = None
        for attempt, image, outcome in zip(attempts, images, outcomes, strict=True):
            left = self._record(attempt, waiting, image.sha256, outcome, latency, uncertain)
            if left is not None and (again is None or (left.retry_after or 0) > (again.retry_after or 0)):
                again = left
        if self._stop.is_set():
            raise _Halted
        if again is not None:
            raise _Again(again)

    def _sleep(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def _outcomes(self, images: Sequence[EncodedImage]) -> Sequence[Outcome]:
        """Ask the provider; whatever an adapter does wrong becomes an outcome, so that no attempt is left without one."""
        try:
            outcomes = self.provider.label(images)
        except ProviderError as error:
            outcomes = [error] * len(images)
        except Exception as error:  # noqa: BLE001 - an SDK raises what it likes; its text may hold secrets, its type does not
            message = f"the adapter failed with {type(error).__name__}"
            outcomes = [ProviderError(ErrorKind.PROTOCOL, message, uncertain=True)] * len(images)
        if len(outcomes) != len(images):
            message = f"{len(outcomes)} outcomes for {len(images)} images"
            outcomes = [ProviderError(ErrorKind.PROTOCOL, message, uncertain=True)] * len(images)
        return outcomes

    def _record(
        self,
        attempt: int,
        waiting: dict[str, Question],
        sha256: str,
        outcome: Outcome,
        latency: float,
        uncertain: dict[str, int],
    ) -> ProviderError | None:
        """Store an outcome; the error, if the image is to be asked about again."""
        if isinstance(outcome, Answer):
            self.store.record_answer(attempt, outcome, latency)
            del waiting[sha256]
            with self._mutex:
                self.report.answered += 1
                self._failures = 0
            self.progress(1)
            return None
        self.store.record_error(attempt, outcome, latency)
        self._last_error = outcome.message
        if outcome.uncertain:
            uncertain[sha256] += 1
            with self._mutex:
                self.report.uncertain += 1
        if outcome.kind in STOPS_THE_RUN:
            self._halt(HaltReason(outcome.kind.value), outcome.message)
            return None
        if outcome.kind in RETRIED and uncertain[sha256] <= self.policy.uncertain:
            return outcome
        self._give_up(waiting.pop(sha256), outcome)
        return None

    def _give_up(self, question: Question, error: ProviderError) -> None:
        with self._mutex:
            if error.kind is ErrorKind.REJECTED:
                self.report.rejected.append((question.name, error.message))
                self._failures = 0  # the provider looked at it: it is there, and works
            else:
                self.report.failed.append((question.name, error.message))
                self._failures += 1
        self.progress(1)
        if self._failures >= self.failures_in_a_row:
            self._halt(
                HaltReason.FAILING,
                f"stopped: {self._failures} images in a row failed, the last with: {error.message}",
            )

    def _halt(self, reason: HaltReason, message: str) -> None:
        with self._mutex:
            if self.report.halted is None:
                self.report.halted, self.report.message = reason, message
        self._stop.set()


class _Shared:
    """An iterator that several threads take from."""

    def __init__(self, items: Iterator[list[Question]]) -> None:
        self._items = items
        self._mutex = threading.Lock()

    def take(self) -> list[Question] | None:
        with self._mutex:
            return next(self._items, None)


def _batches(questions: Sequence[Question], size: int) -> Iterator[list[Question]]:
    for start in range(0, len(questions), size):
        yield list(questions[start : start + size])
