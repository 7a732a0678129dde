"""Define the public Python API: `from driftline import FeatureProducer, predictions`.

docs/python.md shows these names with examples. `import driftline` imports no other module: each
name is imported from its module on first use. No other file in this package imports anything from
`producers/` or from a service.
"""

TYPE_CHECKING = False  # type checkers assume True; importing `typing` would take time
if TYPE_CHECKING:
    from driftline.broker.port import Broker
    from driftline.client.connection import memory_broker
    from driftline.client.read_events import drift_events, outcomes, predictions
    from driftline.client.saved_runs import open_run
    from driftline.config.stream import Stream
    from driftline.config.stream import load as load_stream
    from driftline.errors import BrokerError, DataError, DriftlineError
    from driftline.wire.events import DriftEvent, Outcome, Prediction
    from producers.client import FeatureProducer

__all__ = [
    "Broker",
    "BrokerError",
    "DataError",
    "DriftEvent",
    "DriftlineError",
    "FeatureProducer",
    "Outcome",
    "Prediction",
    "Stream",
    "drift_events",
    "load_stream",
    "memory_broker",
    "open_run",
    "outcomes",
    "predictions",
]

_ORIGINS = {
    "Broker": "driftline.broker.port.Broker",
    "BrokerError": "driftline.errors.BrokerError",
    "DataError": "driftline.errors.DataError",
    "DriftEvent": "driftline.wire.events.DriftEvent",
    "DriftlineError": "driftline.errors.DriftlineError",
    "FeatureProducer": "producers.client.FeatureProducer",
    "Outcome": "driftline.wire.events.Outcome",
    "Prediction": "driftline.wire.events.Prediction",
    "Stream": "driftline.config.stream.Stream",
    "drift_events": "driftline.client.read_events.drift_events",
    "load_stream": "driftline.config.stream.load",
    "memory_broker": "driftline.client.connection.memory_broker",
    "open_run": "driftline.client.saved_runs.open_run",
    "outcomes": "driftline.client.read_events.outcomes",
    "predictions": "driftline.client.read_events.predictions",
}

if not TYPE_CHECKING:  # a type checker that sees `__getattr__` accepts any name

    def __getattr__(name: str) -> object:
        """Import a public name. Python calls this for a name that is not yet imported (PEP 562)."""
        if name not in _ORIGINS:
            raise AttributeError(
                f"module 'driftline' has no attribute {name!r}; "
                f"its public names are {', '.join(__all__)}",
                name=name,
            )
        from importlib import import_module

        module, _, attribute = _ORIGINS[name].rpartition(".")
        value = getattr(import_module(module), attribute)
        globals()[name] = value  # so that later uses of the name do not call `__getattr__`
        return value

    def __dir__() -> list[str]:
        return __all__
