"""The engine: sends what has no stored answer yet, and alone decides on retries, rate, budget and when to stop."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_when_event_set

from apibench.errors import ApibenchError
from apibench.query.contract import Answer, EncodedImage, ErrorKind, ImageLimits, Outcome, Provider, ProviderError
from apibench.query.outcomes import checked, of_a_batch
from apibench.query.policy import PERHAPS_OF_ONE, RETRIED, STOPS_THE_RUN, AgainError, OnUncertain, RetryPolicy
from apibench.query.pricing import NOTHING_UNBILLED, Unbilled
from apibench.query.rate import RateLimiter
from apibench.query.result import HaltReason, QueryReport, Question, left_as, left_before
from apibench.query.store import CapReachedError, Key, ResponseStore

__all__ = ["Engine", "HaltReason", "QueryReport", "Question", "RetryPolicy"]

# An intent is written so many seconds before its request may go: no sooner, or a kill leaves more of them uncertain.
EARLY = 0.05
NOT_SENT = "not sent: the run was stopping"


class _Halted(Exception):  # noqa: N818 - not an error that leaves this module
    """The run is stopping: nothing more is sent."""


class _Split(Exception):  # noqa: N818
    """A batch is refused as a whole, perhaps for one image of it: the images are to be asked about one at a time."""


class Engine:
    """One run over a list of questions. The store's lock is held by whoever opened the store.

    ``price``: US dollars an image. ``max_calls`` and ``max_cost`` (US dollars): of the campaign, over all runs. ``batch``:
    images a request, at most what the provider takes. ``concurrency``: requests at a time. ``per_second``: requests; None for
    no limit. ``on_uncertain``: whether an image is asked about again whose answer may have been lost, in this run or before.
    ``unbilled``: the errors that the vendor does not bill. ``prepare`` (bytes of a file to the bytes that are sent) raises
    ProviderError with ``sent`` False for what the provider would not take. ``limits``: of the wire; no request is larger, though
    its batch then be smaller. ``progress`` is told how many images are done, and ``say`` whatever else there is to tell.
    """

    failures_in_a_row = 5

    def __init__(
        self,
        provider: Provider,
        store: ResponseStore,
        key: Key,
        *,
        price: float | None = None,
        max_calls: int | None = None,
        max_cost: float | None = None,
        batch: int = 1,
        concurrency: int = 4,
        per_second: float | None = None,
        on_uncertain: OnUncertain = OnUncertain.ASK_AGAIN,
        unbilled: Unbilled = NOTHING_UNBILLED,
        policy: RetryPolicy | None = None,
        prepare: Callable[[bytes], bytes] | None = None,
        limits: ImageLimits | None = None,
        progress: Callable[[int], None] = lambda _: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.provider = provider
        self.store = store
        self.key = key
        self.price = price
        self.max_calls = max_calls
        self.max_cost = max_cost
        # One image a request, unless told: an answer that is lost is then one image's.
        self.batch = min(batch, provider.info.max_batch)
        self.concurrency = concurrency
        self.on_uncertain = on_uncertain
        self.unbilled = unbilled
        self.policy = policy or RetryPolicy()
        self.prepare = prepare
        self.limits = limits or ImageLimits()
        self.progress = progress
        self.say = say
        self.report = QueryReport()
        self._limiter = RateLimiter(per_second, first=self.policy.first, longest=self.policy.longest)
        self._stop = threading.Event()
        self._mutex = threading.Lock()
        self._lost: Counter[str] = Counter()  # answers that may have been lost, by image
        self._failures = 0
        self._last_error = ""

    def run(self, questions: Sequence[Question]) -> QueryReport:
        """Ask about every image that has no stored answer or refusal under the key; the others are never sent again."""
        unique = {question.sha256: question for question in questions}
        done = set(self.store.settled(self.key))
        done |= set(left_before(self.store, self.key, self.on_uncertain, self.policy))
        self._lost.update({sha256: lost.times for sha256, lost in self.store.uncertain(self.key).items()})
        self.report = QueryReport.before(unique, self.store, self.key, self.on_uncertain, self.policy)
        open_ = [question for sha256, question in unique.items() if sha256 not in done]
        self.progress(len(unique) - len(open_))
        batches = _Shared(_batches(open_, self.batch))
        workers = max(1, min(self.concurrency, len(open_)))
        pool = ThreadPoolExecutor(workers, thread_name_prefix="query")
        futures: list[Future[None]] = []
        try:
            for _ in range(workers):
                futures.append(pool.submit(self._work, batches))
            wait(futures)
        except BaseException:
            self._stop.set()
            raise
        finally:
            self._see_off(pool, futures)
        for future in futures:
            future.result()
        return self.report

    def _see_off(self, pool: ThreadPoolExecutor, futures: Sequence[Future[None]]) -> None:
        """Wait for the answers on their way, whatever else interrupts: they may be paid for, and the store is still open."""
        while True:
            try:
                pool.shutdown()
                return
            except KeyboardInterrupt:
                self._stop.set()
                self.say(
                    f"waiting for {sum(not one.done() for one in futures)} answers on their way: they may be billed"
                )

    def _work(self, batches: _Shared) -> None:
        while not self._stop.is_set():
            batch = batches.take()
            if batch is None:
                return
            try:
                for request in self._fitting(self._read(batch)):
                    self._ask(request)
            except _Halted:
                return
            except ApibenchError as error:  # the store cannot be written: nothing more is sent
                self._halt(HaltReason.STORE, str(error))
                return
            except BaseException:
                self._stop.set()
                raise

    def _read(self, batch: Sequence[Question]) -> dict[str, _Asked]:
        """What is to be sent of a batch; an image that cannot be (gone, changed, too large) is listed, and the others go on."""
        asked = {}
        for question in batch:
            try:
                data = question.read()
                sent = self.prepare(data) if self.prepare else data
            except ApibenchError as error:
                with self._mutex:
                    self.report.failed.append((question.name, str(error)))
                self.progress(1)
            except ProviderError as error:
                self.store.record_unsent(self.key, question.sha256, error)
                self._give_up(question, error)
            else:
                image = EncodedImage(sent, question.sha256)
                asked[question.sha256] = _Asked(question, image, changed=sent is not data and sent != data)
        return asked

    def _fitting(self, batch: dict[str, _Asked]) -> Iterator[dict[str, _Asked]]:
        """What is sent together: as many images of a batch as one request may hold."""
        together: dict[str, _Asked] = {}
        for sha256, asked in batch.items():
            sizes = [len(one.image.data) for one in (*together.values(), asked)]
            if together and not self.limits.together(sizes):
                yield together
                together = {}
            together[sha256] = asked
        if together:
            yield together

    def _ask(self, waiting: dict[str, _Asked]) -> None:
        """Ask until each image has an outcome, or the policy says enough."""
        retrying = Retrying(
            stop=stop_after_attempt(self.policy.attempts) | stop_when_event_set(self._stop),
            wait=self.policy.wait,
            retry=retry_if_exception_type(AgainError),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            retrying(self._send, waiting)
        except _Split:
            for sha256, asked in list(waiting.items()):
                self._ask({sha256: asked})
        except AgainError as again:
            if self._stop.is_set():
                return  # not given up: the run is stopping, and the next one asks again
            for asked in waiting.values():
                self._give_up(asked.question, again.error)
            self._failed_again(again.error)

    def _send(self, waiting: dict[str, _Asked]) -> None:
        """One request. Takes out of ``waiting`` what needs no other; raises AgainError or _Split where something is left."""
        images = [asked.image for asked in waiting.values()]
        attempts, gone = self._go(list(waiting.values()))
        started = time.monotonic()
        outcomes = self._outcomes(images)
        latency = time.monotonic() - started
        self._heed(outcomes, gone)
        as_one = len(images) > 1 and all(
            isinstance(outcome, ProviderError) and outcome.kind in PERHAPS_OF_ONE for outcome in outcomes
        )
        if as_one:
            outcomes = [of_a_batch(outcome, len(images)) for outcome in outcomes]
        self._record(attempts, outcomes, latency)
        again = failed = None
        for image, outcome in zip(images, outcomes, strict=True):
            error = self._settle(waiting, image.sha256, outcome)
            if error is not None and image.sha256 not in waiting:
                failed = error
            elif error is not None and (again is None or (error.retry_after or 0) > (again.retry_after or 0)):
                again = error
        if failed is not None and failed.kind is not ErrorKind.REJECTED:
            self._failed_again(failed)
        if self._stop.is_set():
            raise _Halted
        if again is not None:
            raise _Split if as_one else AgainError(again)

    def _go(self, asked: Sequence[_Asked]) -> tuple[list[int], float]:
        """Wait for the rate's turn, write down the intent, and go: the attempts, and when, by the limiter's clock."""
        with self._limiter.turn:
            self._limiter.wait(self._stop, early=EARLY)
            if self._stop.is_set():
                raise _Halted
            attempts = self._intend(asked)
            self._limiter.wait(self._stop)
            if self._stop.is_set():
                for attempt in attempts:
                    self.store.record_error(attempt, ProviderError(ErrorKind.TRANSIENT, NOT_SENT, sent=False), 0.0)
                raise _Halted
            with self._mutex:
                self.report.sent += 1
            return attempts, self._limiter.go()

    def _intend(self, asked: Sequence[_Asked]) -> list[int]:
        try:
            return self.store.begin(
                self.key,
                [one.image.sha256 for one in asked],
                price=self.price,
                cap=self.max_calls,
                max_cost=self.max_cost,
                sent_sha256s=[one.sent_sha256 for one in asked],
            )
        except CapReachedError as cap:
            self._halt(
                HaltReason.CAP,
                f"{cap} reached for campaign {self.key.campaign!r}; "
                "the answers so far are stored, a larger cap goes on from there"
                + (f". The last error: {self._last_error}" if self._last_error else ""),
            )
            raise _Halted from None

    def _sleep(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def _outcomes(self, images: Sequence[EncodedImage]) -> Sequence[Outcome]:
        """Ask the provider; whatever an adapter does wrong becomes an outcome, so that no attempt is left without one."""
        try:
            return checked(self.provider.label(images), len(images))
        except ProviderError as error:
            return checked([error] * len(images), len(images))
        except Exception as error:  # noqa: BLE001 - an SDK raises what it likes; its text may hold secrets, its type does not
            message = f"the adapter failed with {type(error).__name__}"
            return [ProviderError(ErrorKind.PROTOCOL, message, uncertain=True)] * len(images)

    def _heed(self, outcomes: Sequence[Outcome], gone: float) -> None:
        """What a reply says to all threads: to wait, to slow down, or that all is well."""
        errors = [outcome for outcome in outcomes if isinstance(outcome, ProviderError)]
        retry_after = self.policy.capped(
            max((e.retry_after for e in errors if e.retry_after is not None), default=None)
        )
        if any(error.kind is ErrorKind.THROTTLED for error in errors):
            self._limiter.throttled(gone, retry_after)
        elif retry_after is not None:
            self._limiter.pause(retry_after)
        elif len(errors) < len(outcomes):
            self._limiter.answered()
        if len(errors) == len(outcomes) and not any(error.sent for error in errors):
            with self._mutex:
                self.report.sent -= 1

    def _record(self, attempts: Sequence[int], outcomes: Sequence[Outcome], latency: float) -> None:
        """Store a reply, whole: no kill comes between the answers that it brought."""
        with self.store.together():
            for attempt, outcome in zip(attempts, outcomes, strict=True):
                if isinstance(outcome, Answer):
                    self.store.record_answer(attempt, outcome, latency)
                else:
                    self.store.record_error(attempt, outcome, latency, unbilled=self.unbilled.covers(outcome))

    def _settle(self, waiting: dict[str, _Asked], sha256: str, outcome: Outcome) -> ProviderError | None:
        """What becomes of an image; its error, if there is one. One that is to be asked about again stays in ``waiting``."""
        if isinstance(outcome, Answer):
            del waiting[sha256]
            with self._mutex:
                self.report.answered += 1
                if outcome.parsed.model_version is not None:
                    self.report.versions[outcome.parsed.model_version] += 1
                self._failures = 0
            self.progress(1)
            return None
        self._last_error = outcome.message
        if outcome.uncertain and outcome.sent:
            with self._mutex:
                self._lost[sha256] += 1
                self.report.uncertain += 1
        if outcome.kind in STOPS_THE_RUN:
            self._halt(HaltReason(outcome.kind.value), outcome.message)
            return None
        if outcome.kind in RETRIED and not self._is_left(sha256):
            return outcome
        self._give_up(waiting.pop(sha256).question, outcome)
        return outcome

    def _is_left(self, sha256: str) -> bool:
        """Whether so many answers of an image may have been lost that it is not asked about again."""
        return self._lost[sha256] > self.policy.most_lost(self.on_uncertain)

    def _give_up(self, question: Question, error: ProviderError) -> None:
        with self._mutex:
            if error.kind is ErrorKind.REJECTED:
                self.report.rejected.append((question.name, error.message))
                self._failures = 0  # the provider looked at it: it is there, and works
            elif self._is_left(question.sha256):
                self.report.left.append((question.name, left_as(error.message)))
            else:
                self.report.failed.append((question.name, error.message))
        self.progress(1)

    def _failed_again(self, error: ProviderError) -> None:
        """Another request in a row that brought nothing."""
        with self._mutex:
            self._failures += 1
            failures = self._failures
        if failures >= self.failures_in_a_row:
            self._halt(
                HaltReason.FAILING, f"stopped: {failures} images in a row failed, the last with: {error.message}"
            )

    def _halt(self, reason: HaltReason, message: str) -> None:
        with self._mutex:
            if self.report.halted is None:
                self.report.halted, self.report.message = reason, message
        self._stop.set()


@dataclass(frozen=True)
class _Asked:
    """An image on its way. ``image`` has the identity of its file, and the bytes that are sent."""

    question: Question
    image: EncodedImage
    changed: bool

    @property
    def sent_sha256(self) -> str | None:
        """Of the bytes that are sent, where they are not those of the file."""
        return hashlib.sha256(self.image.data).hexdigest() if self.changed else None


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
