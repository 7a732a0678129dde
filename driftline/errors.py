"""Every error that Driftline raises on purpose, under one base class.

DriftlineError
├── StreamFileError        the stream file is wrong: file, key, what was expected
├── SettingsError          a setting, flag or environment variable is wrong
├── MissingExtra           an optional library is not installed
├── DataError              a data file or record cannot be used
├── BrokerError            something the broker said
│   ├── BrokerUnavailable  it cannot be reached
│   │   └── Stuck          the client returns no records although there are some
│   ├── AccessDenied       it refuses this client, or what the client may not do
│   ├── TopicMismatch      topics are missing, or differ from the plan
│   ├── OffsetOutOfRange   a partition has no record at the position of its reader
│   ├── MessageTooLarge    one message is over its topic's limit
│   ├── DeliveryFailed     a message was not acknowledged
│   ├── InstanceFenced     another process has taken this one's place in its group
│   ├── TopicRecreated     an input topic was deleted and created again
│   └── TransactionAborted the transaction is gone; state must be rebuilt from committed offsets
│       └── StateLost      so must it, for a service cannot go on with the state that it has
├── PackageError           a model package cannot be used
│   ├── PackageNotFound    the store does not hold it
│   ├── StoreUnavailable   the store cannot be read or written now
│   ├── DigestMismatch     its bytes are not those that were announced
│   ├── UntrustedPackage   it is unsigned, or signed by a key that is not trusted
│   └── PackageCheckFailed it loads, but does not do what it says
└── TrainingError          no model could be made from this data
"""


class DriftlineError(Exception):
    """Base class. `message` says what happened and where, `hint` what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class StreamFileError(DriftlineError):
    """The stream file is wrong."""


class SettingsError(DriftlineError):
    """A setting, a flag or an environment variable is wrong."""


class MissingExtra(DriftlineError):
    """An optional library is needed and not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed", hint=f"pip install 'driftline[{extra}]'")


class DataError(DriftlineError):
    """A data file or a record cannot be used."""


class BrokerError(DriftlineError):
    """Something the broker said."""


class BrokerUnavailable(BrokerError):
    """The broker cannot be reached."""


class Stuck(BrokerUnavailable):
    """The client returns no records although there are some."""


class AccessDenied(BrokerError):
    """The broker refuses this client (TLS, password), or what it may not do (ACLs)."""


class TopicMismatch(BrokerError):
    """Topics are missing on the broker, or differ from the plan."""


class OffsetOutOfRange(BrokerError):
    """A partition has no record at the position of its reader."""

    def __init__(self, topic: str, partition: int) -> None:
        super().__init__(f"{topic}[{partition}] has no record at the position of its reader")
        self.topic = topic
        self.partition = partition


class MessageTooLarge(BrokerError):
    """One message is over its topic's limit."""


class DeliveryFailed(BrokerError):
    """A message was not acknowledged by the broker."""


class InstanceFenced(BrokerError):
    """Another process has taken this one's place in its group."""


class TopicRecreated(BrokerError):
    """An input topic was deleted and created again while it was read."""


class TransactionAborted(BrokerError):
    """The transaction is gone; state must be rebuilt from the committed offsets."""


class StateLost(TransactionAborted):
    """A service cannot go on with its state: the transaction is given up, and it is rebuilt."""


class PackageError(DriftlineError):
    """A model package cannot be used."""


class PackageNotFound(PackageError):
    """The model store does not hold the package."""


class StoreUnavailable(PackageError):
    """The model store cannot be read or written now; nothing is known about the package."""


class DigestMismatch(PackageError):
    """The package's bytes are not those that were announced."""


class UntrustedPackage(PackageError):
    """The package is unsigned, or signed by a key that is not trusted."""


class PackageCheckFailed(PackageError):
    """The package loads, but does not do what it says."""


class TrainingError(DriftlineError):
    """No model could be made from this data."""
