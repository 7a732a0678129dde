"""Run a service on Kafka: poll records, call its handler, send the results, commit offsets.

Input: a `Handler`, which turns records into results and returns the offsets to commit, and a
broker. Output: published results and committed offsets. With exactly-once, no record is lost and no
result is published twice; with at-least-once, no record is lost.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from driftline.broker.port import Broker, Messages, Outgoing, OutgoingBatch, TopicPartition
from driftline.clock import Clock
from driftline.config.stream_sections import Delivery
from driftline.errors import (
    BrokerError,
    InstanceFenced,
    StoreUnavailable,
    Stuck,
    TopicRecreated,
    TransactionAborted,
)
from driftline.runtime.bad_record_isolation import (
    DeferredFailed,
    Isolation,
    is_caused_by_data,
    reason_of,
)
from driftline.runtime.broadcasts import BroadcastReader
from driftline.runtime.free_memory import free_memory
from driftline.runtime.handler import Handler
from driftline.runtime.input_logs import InputLogs
from driftline.runtime.session import Session
from driftline.runtime.stalls import StallDetector

log = logging.getLogger(__name__)

# Committing a one-record transaction takes a median of 11 ms, a small part of this interval.
COMMIT_INTERVAL_S = 0.2
# Without transactions, each commit waits for all acknowledgements. With one commit a second, this
# wait costs little throughput, and a killed worker's successor repeats little work.
AT_LEAST_ONCE_INTERVAL_S = 1.0
# The interval between calls to `on_group_progress`, which each cost a round trip to the broker.
PROGRESS_INTERVAL_S = 1.0
# After more than this many consecutive aborted transactions, the session is replaced.
MAX_ABORTS_IN_A_ROW = 5
# The wait before a failed session is replaced. It doubles with each failure, up to a maximum.
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 15.0
# If a worker is fenced twice within this time, assume that another live worker has the same slot.
RIVAL_WITHIN_S = 60.0

OnConnection = Callable[[str | None], None]


class Loop:
    """Run one handler on one broker. Each `step` calls the handler's methods as follows:

    1. If no session is open, open one: fence the predecessor's transaction, then join the group.
    2. Pass new records of the broadcast topics to `on_broadcast`. A session's first step reads
       these topics to their end.
    3. Pause the `paused_partitions` and resume all other partitions.
    4. Poll. Partitions may be assigned or revoked during this call (`on_assigned`, `on_revoked`).
       The session commits before partitions are revoked, because it cannot do so later. Then pass
       log changes to `on_log_change`.
    5. Call `handle` with the batch, then `on_tick`. Between these calls, call `on_group_progress`
       if partitions were assigned or a second has passed since its last call. If a record makes
       `handle` or `on_tick` fail, pass the record to `reject` instead. If the record was deferred
       from an earlier batch, the handler raises `DeferredFailed`.
    6. Send the results and dead letters in the order of the input records. With exactly-once, the
       first record sent begins a transaction. After sending, advance the positions past the batch.
    7. If `commit_interval_s` has passed since the last commit, commit the `offsets_to_commit`
       (`Session.commit`), then call `on_committed`.

    A failure can leave the handler's state ahead of the results that were sent. The offsets to
    commit come from that state, so committing them would lose results. Therefore nothing is
    committed after a failure until the state has been rebuilt:

    - If a transaction is aborted, readers see none of its records. The handler drops its
      partitions and is assigned them again at the committed offsets.
    - If a batch's data makes the handler fail, the handler is also assigned its partitions again.
      The batch is then handled in smaller and smaller chunks until its bad records have become
      dead letters (`driftline.runtime.bad_record_isolation`).
    - After any other failure, the session is abandoned and the error is raised. The next step opens
      a new session.

    If an input topic was recreated, the session commits and is then abandoned, without an error.
    """

    def __init__(
        self,
        handler: Handler,
        broker: Broker,
        *,
        group: str,
        delivery: Delivery,
        clock: Clock,
        slot: int = 0,
        max_records: int = 5000,
        commit_interval_s: float | None = None,
        commits_file: Path | None = None,
        on_connection: OnConnection = lambda problem: None,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare a loop, which connects in its first step.

        `commits_file` is for `InputLogs`. `on_connection` is called with the reason after each
        Kafka failure, and with None once Kafka works again. `run` calls `on_turn` before each step.
        """
        self._handler = handler
        self._broker = broker
        self._clock = clock
        self._group = group
        self._client_id = f"{group}-{slot}"
        self._exactly_once = delivery == "exactly_once"
        self._max_records = max_records
        if commit_interval_s is None:
            commit_interval_s = (
                COMMIT_INTERVAL_S if self._exactly_once else AT_LEAST_ONCE_INTERVAL_S
            )
        self._commit_interval_s = commit_interval_s
        self._last_commit_s = clock.monotonic()  # set by `_commit`, even if nothing is committed
        self._next_progress_s = self._last_commit_s + PROGRESS_INTERVAL_S  # next `_report_progress`
        # Opened by `step`; None once abandoned, so that `close` cannot commit after a failure.
        self._session: Session | None = None
        # All sessions share the next four objects.
        self._logs = InputLogs(broker, clock, commits_file)
        self._broadcasts = BroadcastReader(
            handler, broker, self._logs, clock, client_id=self._client_id, max_records=max_records
        )
        self._isolation = Isolation()
        self._stalls = StallDetector(clock)
        self._aborts = 0  # consecutive aborts; reset by a commit, and when the limit is exceeded
        self._on_connection = on_connection
        self._on_turn = on_turn
        self._problem_since_s: float | None = None  # time of the first failure; None if Kafka works
        self._failures = 0  # failed sessions since Kafka last worked
        self._fenced_s = float("-inf")  # the time at which this worker was last fenced

    def step(self, timeout_s: float) -> bool:
        """Run one iteration and return whether it did any work.

        Waits up to `timeout_s` for records. Raises BrokerError if the broker is unreachable or
        rejects a request, and any handler error that the data cannot have caused. After an error,
        the next step starts from the committed offsets.
        """
        session = self._session or self._open()
        try:
            try:
                return self._turn(session, timeout_s)
            except TransactionAborted as error:
                self._count_abort(error)
            except TopicRecreated as error:
                log.warning("%s", error.message)
                self._abandon()
                return True
            session.rewind()  # outside the `except` block, for the reason given in broker/port.py
            return True
        except BaseException:
            self._abandon()
            raise

    def run(self, stop: threading.Event, *, max_wait_s: float) -> None:
        """Call `step` until `stop` is set, then commit and close.

        After an error from Kafka or the model store, wait and open a new session. Raises all other
        errors from `step`, and InstanceFenced if this worker is fenced twice within a minute.
        """
        try:
            while not stop.is_set():
                self._on_turn()
                pause_s = 0.0
                try:
                    self.step(max_wait_s)
                except BrokerError as error:
                    self._check_rival(error)
                    self._failed(error)
                    pause_s = self._next_backoff_s()
                except StoreUnavailable as error:
                    log.warning("the model store is unavailable, retrying: %s", error.message)
                    pause_s = LONGEST_BACKOFF_S
                if pause_s:
                    # Freeing a client may block while the broker is unreachable, so use a thread.
                    threading.Thread(target=free_memory, name="driftline-gc", daemon=True).start()
                    stop.wait(pause_s)
        finally:
            self.close()

    @property
    def paused(self) -> frozenset[TopicPartition]:
        """Return the paused partitions."""
        return self._session.paused if self._session is not None else frozenset()

    def close(self) -> None:
        """Commit, leave the group and close the handler. Safe to call twice and after a failure.

        If the broker fails, log the failure and abandon the session.
        """
        session, self._session = self._session, None
        try:
            if session is not None:
                session.close()
                self._logs.close()
        except BrokerError as error:
            log.warning(
                "closed without a final commit; uncommitted records will be handled again: %s",
                error,
            )
            assert session is not None
            session.abandon()
        except BaseException:
            assert session is not None
            session.abandon()
            raise
        finally:
            self._handler.close()

    # ---- one step -------------------------------------------------------------------------------

    def _turn(self, session: Session, timeout_s: float) -> bool:
        busy = session.read_broadcasts()
        messages = session.poll(timeout_s)
        left = len(messages)
        for chunk in self._isolation.chunks(messages) if messages else ():
            left -= len(chunk)
            if not self._process(session, chunk, is_last=not left):
                return True
        if not messages:
            if not self._settle_culprits(session, is_idle=True):
                return True
            self._report_progress(session, is_idle=True)
            output: list[Outgoing | OutgoingBatch] = []
            if not self._attempt(session, messages, lambda: output.extend(self._handler.on_tick())):
                return True
            session.send(output)
            busy = busy or bool(output)
        if self._clock.monotonic() - self._last_commit_s >= self._commit_interval_s:
            self._commit(session)
        return busy or bool(messages)

    def _process(self, session: Session, messages: Messages, *, is_last: bool) -> bool:
        """Handle records and send the results. Return False if the records must be read again."""
        if self._isolation.quarantines(messages):
            return True
        output: list[Outgoing | OutgoingBatch] = []

        def handle() -> None:
            output.extend(self._handler.handle(messages))
            if is_last:
                self._report_progress(session, is_idle=False)
            output.extend(self._handler.on_tick())

        # Bad records before this chunk may not be dead letters yet. Send them before these
        # results, because readers drop out-of-order results as duplicates.
        if not (
            self._attempt(session, messages, handle)
            and self._settle_culprits(session, is_idle=False)
            and self._attempt(session, messages, lambda: session.send(output))
        ):
            return False
        self._isolation.succeeded(messages)
        session.handled(messages)
        if self._isolation.is_searching:
            self._commit(session)  # so that the next failure does not undo this chunk
        return True

    def _attempt(self, session: Session, messages: Messages, work: Callable[[], None]) -> bool:
        """Call `work` and return whether it succeeded. If records make it fail, rewind so that they
        are read again in smaller chunks."""
        try:
            work()
            return True
        except Exception as error:
            if isinstance(error, DeferredFailed):
                messages = Messages.of(error.messages)
            elif not messages or not is_caused_by_data(error):
                raise
            if self._isolation.failed(messages, error):
                log.error(
                    "%s failed twice on its own and becomes a dead letter",
                    messages[0].place,
                    exc_info=error,
                )
            else:
                log.warning(
                    "handling %d records failed; retrying them in smaller batches: %s",
                    len(messages),
                    reason_of(error),
                )
        session.rewind()  # outside the `except` block, for the reason given in broker/port.py
        return False

    def _settle_culprits(self, session: Session, *, is_idle: bool) -> bool:
        """Send the bad records found so far as dead letters. If one of them has failed only once,
        rewind instead, so that it is read again. Return False after a rewind."""
        if self._isolation.try_again(is_idle=is_idle):
            session.rewind()
            return False
        for message, reason in self._isolation.take_proven(is_idle=is_idle):
            output = self._handler.reject(message, reason)
            if not session.was_handled_before(message):
                session.send(output)
            session.handled(Messages([message]))
        return True

    def _commit(self, session: Session) -> None:
        self._last_commit_s = self._clock.monotonic()
        if session.is_dirty:
            has_handled = session.has_handled
            self._isolation.committed(session.commit())
            self._aborts = 0
            # Otherwise, only results of broadcast topics were committed, or offsets again.
            if has_handled:
                self._works()

    def _report_progress(self, session: Session, *, is_idle: bool) -> None:
        now_s = self._clock.monotonic()
        if now_s < self._next_progress_s and not session.was_assigned:
            return
        if self._isolation.is_unproven:
            return  # the positions are past bad records that are not yet dead letters
        self._next_progress_s = now_s + PROGRESS_INTERVAL_S
        try:
            works = session.report_progress()
        except (InstanceFenced, Stuck, TransactionAborted):
            raise
        except BrokerError as error:
            # The clients may recover on their own. Try again after `PROGRESS_INTERVAL_S`.
            self._failed(error)
        else:
            # Unless the loop is idle, the records of this step have been read but not committed.
            if works and is_idle:
                self._works()

    # ---- sessions -------------------------------------------------------------------------------

    def _open(self) -> Session:
        self._session = Session(
            self._handler,
            self._broker,
            group=self._group,
            client_id=self._client_id,
            exactly_once=self._exactly_once,
            max_records=self._max_records,
            logs=self._logs,
            broadcasts=self._broadcasts,
            stalls=self._stalls,
            on_reread=self._isolation.reread,
        )
        return self._session

    def _abandon(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.abandon()

    def _count_abort(self, error: TransactionAborted) -> None:
        """Log an aborted transaction. After too many consecutive aborts, re-raise the error."""
        self._aborts += 1
        if self._aborts > MAX_ABORTS_IN_A_ROW:
            self._aborts = 0
            raise error
        log.warning("transaction aborted; resuming from the committed offsets: %s", error.message)

    def _next_backoff_s(self) -> float:
        backoff_s = FIRST_BACKOFF_S * 2.0 ** min(self._failures, 10)
        self._failures += 1
        return min(backoff_s, LONGEST_BACKOFF_S)

    def _check_rival(self, error: BrokerError) -> None:
        """Raise the error if it is the second InstanceFenced within a minute. One alone does not
        prove that another worker has this slot, because a stalled broker also fences members."""
        if isinstance(error, InstanceFenced):
            now_s = self._clock.monotonic()
            if now_s - self._fenced_s < RIVAL_WITHIN_S:
                raise error
            self._fenced_s = now_s

    def _failed(self, error: BrokerError) -> None:
        if self._problem_since_s is None:
            self._problem_since_s = self._clock.monotonic()
            log.warning("Kafka is unavailable, retrying until it responds: %s", error.message)
        else:
            log.debug("Kafka is still unavailable: %s", error.message)
        self._on_connection(error.message)

    def _works(self) -> None:
        self._failures = 0
        if self._problem_since_s is not None:
            waited_s = self._clock.monotonic() - self._problem_since_s
            self._problem_since_s = None
            log.info("Kafka is available again after %.0f s", waited_s)
            self._on_connection(None)
