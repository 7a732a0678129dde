"""Define all exceptions that Driftline raises on purpose, under one base class.

DriftlineError
├── StreamFileError        the stream file cannot be read or is invalid
├── SettingsError          a setting, flag or environment variable is invalid
├── MissingExtra           an optional library is not installed
├── UnsupportedCodec       the client cannot decompress a topic's records
├── MachineError           a file or process on this machine cannot be used
├── DataError              a data file or record cannot be used
├── BrokerError            the broker reported an error, or cannot be used
│   ├── BrokerUnavailable  the broker cannot be reached
│   │   └── Stuck          the group completes no assignment, or unread records do not arrive
│   ├── AccessDenied       the broker rejects this client, or one of the client's operations
│   ├── TopicMismatch      topics are missing, or differ from the stream file's settings
│   ├── OffsetOutOfRange   a partition has no record at its reader's position
│   ├── MessageTooLarge    a message is larger than its topic allows
│   ├── DeliveryFailed     a message was not acknowledged
│   ├── InstanceFenced     another process has replaced this one in its consumer group
│   ├── TopicRecreated     an input topic was deleted and recreated
│   └── TransactionAborted the transaction was aborted, and state must be rebuilt
│       └── StateLost      a service's state is unusable
├── PackageError           a model package cannot be used
│   ├── PackageNotFound    the store does not contain the package
│   ├── StoreUnavailable   the store cannot be read or written at the moment
│   ├── DigestMismatch     the package's bytes do not match the announced digest
│   ├── UntrustedPackage   the package is unsigned, or not signed by a trusted key
│   └── PackageCheckFailed the package's content is invalid, or its model fails a check
└── TrainingError          no model could be trained on this data
"""


class DriftlineError(Exception):
    """Base class of all errors that Driftline raises on purpose.

    `message` describes what happened and where; `hint` describes what to do about it.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class StreamFileError(DriftlineError):
    """The stream file cannot be read or is invalid."""


class SettingsError(DriftlineError):
    """A setting, a flag or an environment variable is invalid."""


class MissingExtra(DriftlineError):
    """An optional library is needed but not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed", hint=f"pip install 'driftline[{extra}]'")


class UnsupportedCodec(DriftlineError):
    """The Kafka client cannot decompress a topic's records. Retrying does not help."""


class MachineError(DriftlineError):
    """A file or process on this machine cannot be used, for example for lack of permissions."""


class DataError(DriftlineError):
    """A data file or a record cannot be used."""


class BrokerError(DriftlineError):
    """The broker reported an error, or cannot be used."""


class BrokerUnavailable(BrokerError):
    """The broker cannot be reached."""


class Stuck(BrokerUnavailable):
    """The group completes no assignment, or unread records do not arrive."""


class AccessDenied(BrokerError):
    """The broker rejects this client (TLS, password), or one of the client's operations (ACLs)."""


class TopicMismatch(BrokerError):
    """Topics are missing on the broker, or differ from the stream file's settings."""


class OffsetOutOfRange(BrokerError):
    """A partition has no record at its reader's position."""

    def __init__(self, topic: str, partition: int) -> None:
        super().__init__(f"{topic}[{partition}] has no record at its reader's position")
        self.topic = topic
        self.partition = partition


class MessageTooLarge(BrokerError):
    """A message is larger than its topic allows."""


class DeliveryFailed(BrokerError):
    """A message was not acknowledged by the broker."""


class InstanceFenced(BrokerError):
    """Another process has replaced this one in its consumer group."""


class TopicRecreated(BrokerError):
    """An input or broadcast topic was deleted and recreated while a service was reading it."""


class TransactionAborted(BrokerError):
    """The transaction was aborted. State must be rebuilt from the committed offsets."""


class StateLost(TransactionAborted):
    """A service's state is unusable. The transaction is aborted and the state is rebuilt."""


class PackageError(DriftlineError):
    """A model package cannot be used."""


class PackageNotFound(PackageError):
    """The model store does not contain the package."""


class StoreUnavailable(PackageError):
    """The model store cannot be read or written at the moment. The package may be valid."""


class DigestMismatch(PackageError):
    """The package's bytes do not match the announced digest."""


class UntrustedPackage(PackageError):
    """The package is unsigned, or not signed by a trusted key."""


class PackageCheckFailed(PackageError):
    """The package's content is invalid, or its model fails a check."""


class TrainingError(DriftlineError):
    """No model could be trained on this data."""
