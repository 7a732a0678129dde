"""Every error that Driftline raises on purpose, under one base class.

DriftlineError
├── StreamFileError        the stream file is wrong: file, key, what was expected
├── SettingsError          a setting, flag or environment variable is wrong
├── MissingExtra           an optional library is not installed
├── UnsupportedCodec       the client cannot decompress the records of a topic
├── MachineError           a file or process of this machine cannot be used: rights, space, type
├── DataError              a data file or record cannot be used
├── BrokerError            the broker reported an error, or cannot be used
│   ├── BrokerUnavailable  it cannot be reached
│   │   └── Stuck          the client returns no records although there are some
│   ├── AccessDenied       it rejects this client, or an operation of the client
│   ├── TopicMismatch      topics are missing, or differ from the plan
│   ├── OffsetOutOfRange   a partition has no record at the position of its reader
│   ├── MessageTooLarge    a message is larger than its topic allows
│   ├── DeliveryFailed     a message was not acknowledged
│   ├── InstanceFenced     another process has replaced this one in its consumer group
│   ├── TopicRecreated     an input topic was deleted and created again
│   └── TransactionAborted state must be rebuilt from the committed offsets
│       └── StateLost      the state of a service is unusable
├── PackageError           a model package cannot be used
│   ├── PackageNotFound    the store does not have it
│   ├── StoreUnavailable   the store cannot be read or written now
│   ├── DigestMismatch     its bytes are not those that were announced
│   ├── UntrustedPackage   it is unsigned, or not signed by a trusted key
│   └── PackageCheckFailed its content is invalid, or its model fails its check
└── TrainingError          no model could be trained on this data
"""


class DriftlineError(Exception):
    """Base class of all errors.

    `message` describes what happened and where, and `hint` what to do about it.
    """

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
    """An optional library is needed but not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed", hint=f"pip install 'driftline[{extra}]'")


class UnsupportedCodec(DriftlineError):
    """The Kafka client cannot decompress the records of a topic. Trying again does not help."""


class MachineError(DriftlineError):
    """A file or process of this machine cannot be used, for example without the rights to it."""


class DataError(DriftlineError):
    """A data file or a record cannot be used."""


class BrokerError(DriftlineError):
    """The broker reported an error, or cannot be used."""


class BrokerUnavailable(BrokerError):
    """The broker cannot be reached."""


class Stuck(BrokerUnavailable):
    """The client returns no records although there are some."""


class AccessDenied(BrokerError):
    """The broker rejects this client (TLS, password), or one of its operations (ACLs)."""


class TopicMismatch(BrokerError):
    """Topics are missing on the broker, or differ from the plan."""


class OffsetOutOfRange(BrokerError):
    """A partition has no record at the position of its reader."""

    def __init__(self, topic: str, partition: int) -> None:
        super().__init__(f"{topic}[{partition}] has no record at the position of its reader")
        self.topic = topic
        self.partition = partition


class MessageTooLarge(BrokerError):
    """A message is larger than its topic allows."""


class DeliveryFailed(BrokerError):
    """A message was not acknowledged by the broker."""


class InstanceFenced(BrokerError):
    """Another process has replaced this one in its consumer group."""


class TopicRecreated(BrokerError):
    """An input or broadcast topic was deleted and created again while it was read."""


class TransactionAborted(BrokerError):
    """The transaction was aborted. State must be rebuilt from the committed offsets."""


class StateLost(TransactionAborted):
    """The state of a service is unusable. The transaction is aborted and the state is rebuilt."""


class PackageError(DriftlineError):
    """A model package cannot be used."""


class PackageNotFound(PackageError):
    """The model store does not have the package."""


class StoreUnavailable(PackageError):
    """The model store cannot be read or written now, so the package could not be checked."""


class DigestMismatch(PackageError):
    """The package's bytes are not those that were announced."""


class UntrustedPackage(PackageError):
    """The package is unsigned, or not signed by a trusted key."""


class PackageCheckFailed(PackageError):
    """The content of the package is invalid, or its model fails its check."""


class TrainingError(DriftlineError):
    """No model could be trained on this data."""
