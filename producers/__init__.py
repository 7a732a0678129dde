"""Into the log: sources of rows, their playback as records and labels, the client for applications.

In: files, tables, generators, records of applications. Out: the features and labels topics. It
never scores and never reads predictions.
"""

from producers.client import FeatureProducer

__all__ = ["FeatureProducer"]
