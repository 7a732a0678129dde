"""The loop: poll, handle, produce, commit. The only place that knows about delivery.

A service is a `Handler` and this loop. The handler turns records into records and names the input
offsets that it still needs. The loop moves records between the handler and the broker, so that no
record is lost and no result is published twice (exactly-once), or none is lost (at-least-once).
"""

import gc
import logging
import threading
from collections.abc import Callable

from driftline.broker.port import Broker, Messages, TopicPartition
from driftline.clock import Clock
from driftline.errors import (
    BrokerError,
    InstanceFenced,
    StoreUnavailable,
    Stuck,
    TopicRecreated,
    TransactionAborted,
)
from driftline.handler import Handler
from driftline.input_logs import InputLogs
from driftline.isolation import Isolation, is_caused_by_data
from driftline.session import Session
from driftline.stream import Delivery

log = logging.getLogger(__name__)

# A transaction of one record costs 11 ms at the median; of 200 ms of batches, next to nothing.
COMMIT_INTERVAL_S = 0.2
# Without transactions results are seen at once, and each commit waits for all acknowledgements:
# rarely enough not to be felt, often enough that a killed worker repeats little.
AT_LEAST_ONCE_INTERVAL_S = 1.0
# How often a handler is shown its group's progress: a round trip, and a metric for people.
LOOK_INTERVAL_S = 1.0
# A transaction that is aborted is redone with the same clients; after so many in a row, with new.
MAX_ABORTS_IN_A_ROW = 5
# Wait so long before new clients are made: doubled at each failure, up to the longest.
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 15.0
# A worker that loses its slot again so soon has a rival that is alive.
RIVAL_WITHIN_S = 60.0

OnConnection = Callable[[str | None], None]


class Loop:
    """Runs one handler on one broker. Each `step` is:

    1. Open a session if there is none: join the group, fence a predecessor's transaction.
    2. Read what is new in the broadcast topics; a session's first step reads them to their end.
    3. Pause the partitions that the handler holds back now, resume those that it does no more.
    4. Poll; inside, partitions may be assigned or revoked. Before partitions go, step 7 is done
       for them while this worker may still commit.
    5. Let the handler handle the batch, and tick; about once a second, and when partitions were
       assigned, show it its group's progress.
    6. Send what it returned, in the order of the inputs, dead letters included. With exactly-once,
       the first record opens a transaction. Only now do the positions move behind the batch.
    7. When `commit_interval_s` has passed since the last commit: with exactly-once, put the offsets
       to commit into the transaction and commit it; with at-least-once, wait until all records are
       acknowledged, then commit the offsets.

    After a failure nothing is committed:

    - If a transaction is aborted, nothing of it was visible: the handler forgets its partitions
      and is assigned them again at the committed offsets.
    - If the handler fails because of a batch's data, the same is done, and the batch is handled in
      smaller and smaller parts until the culprits are dead letters (`driftline.isolation`).
    - If an input topic was created again, all that was handled is committed first, and the next
      step opens another session.
    - After any other failure the session is abandoned, and the error is raised. The next step
      opens another session.
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
        on_connection: OnConnection = lambda problem: None,
    ) -> None:
        """Prepare a loop; nothing is connected before the first step.

        `on_connection` is called with the reason when Kafka does not do its part, again at each
        attempt, and with None when it does again.
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
        self._last_commit_s = clock.monotonic()
        self._next_look_s = self._last_commit_s + LOOK_INTERVAL_S
        self._session: Session | None = None
        self._logs = InputLogs(broker)
        self._followed: dict[TopicPartition, int] = {}  # broadcast topics: next offset to read
        self._isolation = Isolation()
        self._aborts = 0
        self._on_connection = on_connection
        self._problem_since_s: float | None = None
        self._failures = 0  # sessions in a row that failed
        self._fenced_s = float("-inf")
        self._stuck_at: dict[TopicPartition, int] = {}  # where new clients were tried last

    def step(self, timeout_s: float) -> bool:
        """One turn, waiting up to `timeout_s` for records. Returns whether anything happened.

        Raises BrokerError when the broker cannot be reached or refuses, and whatever the handler
        raises. Nothing is committed then; the next step starts from the committed offsets.
        """
        session = self._session or self._open()
        try:
            try:
                return self._turn(session, timeout_s)
            except TransactionAborted as error:
                self._recover(session, error)
                return True
            except TopicRecreated as error:
                log.warning("%s", error.message)
                self._abandon()
                return True
        except BaseException:
            self._abandon()
            raise

    def run(self, stop: threading.Event, *, max_wait_s: float) -> None:
        """Step until `stop` is set, then commit and close.

        While Kafka or the model store cannot be reached, wait and open new sessions. Raises
        InstanceFenced when another process runs in this slot, and whatever else the handler raises.
        """
        try:
            while not stop.is_set():
                pause_s = 0.0
                try:
                    self.step(max_wait_s)
                except BrokerError as error:
                    self._check_rival(error)
                    self._failed(error)
                    pause_s = self._next_backoff_s()
                except StoreUnavailable as error:
                    log.warning("waiting for the model store, and trying again: %s", error.message)
                    pause_s = LONGEST_BACKOFF_S
                if pause_s:
                    # A client in a reference cycle with the error keeps its threads and sockets.
                    # Not in this thread: ending a client may block while the broker is away.
                    threading.Thread(target=gc.collect, name="driftline-gc", daemon=True).start()
                    stop.wait(pause_s)
        finally:
            self.close()

    @property
    def paused(self) -> frozenset[TopicPartition]:
        """Partitions that are not read now because the handler holds them back."""
        return self._session.paused if self._session is not None else frozenset()

    def close(self) -> None:
        """Commit, leave the group, free the handler. Safe to call twice, and after a failure.

        A broker that does not take the last commit is not waited for: the successor repeats it.
        """
        session, self._session = self._session, None
        try:
            if session is not None:
                session.close()
        except BrokerError as error:
            log.warning("closed without a last commit; the next start repeats it: %s", error)
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
        busy = session.follow()
        messages = session.poll(timeout_s)
        left = len(messages)
        for chunk in self._isolation.chunks(messages) if messages else ():
            left -= len(chunk)
            if not self._process(session, chunk, is_last=not left):
                return True
        if not messages:
            if not self._settle_culprits(session, is_idle=True):
                return True
            self._look(session)
            output = self._handler.tick()
            session.send(output)
            busy = busy or bool(output)
        if self._clock.monotonic() - self._last_commit_s >= self._commit_interval_s:
            self._commit(session)
        return busy or bool(messages)

    def _process(self, session: Session, messages: Messages, *, is_last: bool) -> bool:
        """Handle records and send the results. Returns False where they must be read again."""
        if self._isolation.sets_aside(messages):
            return True
        try:
            output = list(self._handler.handle(messages))
            if is_last:
                self._look(session)
            output.extend(self._handler.tick())
        except Exception as error:
            if not is_caused_by_data(error):
                raise
            self._search(session, messages, error)
            return False
        # Only now may results be seen: readers take those that come out of order for repeats.
        if not self._settle_culprits(session, is_idle=False):
            return False
        try:
            session.send(output)
        except Exception as error:
            if not is_caused_by_data(error):
                raise
            self._search(session, messages, error)
            return False
        self._isolation.succeeded(messages)
        session.handled(messages)
        if self._isolation.is_searching:
            self._commit(session)  # else the next failure would undo and repeat this
        return True

    def _search(self, session: Session, messages: Messages, error: Exception) -> None:
        """Have records that failed read again in smaller parts, to find the culprits."""
        if self._isolation.failed(messages, error):
            log.error(
                "%s cannot be handled; it becomes a dead letter",
                messages[0].place,
                exc_info=error,
            )
        else:
            log.warning(
                "handling %d records failed, trying smaller parts: %r", len(messages), error
            )
        session.rewind()

    def _settle_culprits(self, session: Session, *, is_idle: bool) -> bool:
        """Send the dead letters of culprits. Returns False where records must be read again first:
        what made a record fail once may be over."""
        if self._isolation.try_again(is_idle=is_idle):
            session.rewind()
            return False
        for message, reason in self._isolation.take_proven(is_idle=is_idle):
            output = self._handler.refuse(message, reason)
            if not session.was_handled_before(message):
                session.send(output)
            session.handled(Messages([message]))
        return True

    def _commit(self, session: Session) -> None:
        self._last_commit_s = self._clock.monotonic()
        if session.is_dirty:
            self._isolation.committed(session.commit())
            self._aborts = 0
            self._works()

    def _look(self, session: Session) -> None:
        now_s = self._clock.monotonic()
        if now_s < self._next_look_s and not session.was_assigned:
            return
        if self._isolation.is_unproven:
            return  # the consumer is ahead of what was handled
        self._next_look_s = now_s + LOOK_INTERVAL_S
        try:
            answered = session.look()
            self._check_stuck(session)
        except (InstanceFenced, Stuck, TransactionAborted):
            raise
        except BrokerError as error:
            # The clients may overcome this by themselves; ask again next time.
            self._failed(error)
        else:
            if answered and not session.is_dirty:
                self._works()

    def _check_stuck(self, session: Session) -> None:
        """Raise Stuck once for positions that do not move: new clients may read on from there."""
        stuck_at = session.stuck_at
        if stuck_at and stuck_at != self._stuck_at:
            self._stuck_at = dict(stuck_at)
            raise Stuck("no records arrive although there are some; trying with new clients")

    # ---- sessions -------------------------------------------------------------------------------

    def _open(self) -> Session:
        self._session = Session(
            self._handler,
            self._broker,
            group=self._group,
            client_id=self._client_id,
            exactly_once=self._exactly_once,
            max_records=self._max_records,
            followed=self._followed,
            logs=self._logs,
            on_reread=self._isolation.reread,
        )
        return self._session

    def _abandon(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.abandon()

    def _recover(self, session: Session, error: TransactionAborted) -> None:
        self._aborts += 1
        if self._aborts > MAX_ABORTS_IN_A_ROW:
            self._aborts = 0
            raise error
        log.warning("transaction aborted, rebuilding from the committed offsets: %s", error.message)
        session.rewind()

    def _next_backoff_s(self) -> float:
        backoff_s = FIRST_BACKOFF_S * 2.0 ** min(self._failures, 10)
        self._failures += 1
        return min(backoff_s, LONGEST_BACKOFF_S)

    def _check_rival(self, error: BrokerError) -> None:
        """Raise an InstanceFenced that shows that another process lives in this slot."""
        if isinstance(error, InstanceFenced):
            now_s = self._clock.monotonic()
            if now_s - self._fenced_s < RIVAL_WITHIN_S:
                raise error
            self._fenced_s = now_s

    def _failed(self, error: BrokerError) -> None:
        if self._problem_since_s is None:
            self._problem_since_s = self._clock.monotonic()
            log.warning("waiting for Kafka, and trying again until it answers: %s", error.message)
        else:
            log.debug("still waiting for Kafka: %s", error.message)
        self._on_connection(error.message)

    def _works(self) -> None:
        self._failures = 0
        if self._problem_since_s is not None:
            waited_s = self._clock.monotonic() - self._problem_since_s
            self._problem_since_s = None
            log.info("Kafka answers again after %.0f s", waited_s)
            self._on_connection(None)
