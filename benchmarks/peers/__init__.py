"""The programs that Driftline is compared with, each as a good engineer would write it.

They do not import Driftline and run in any Python that has their library. In: a topic of feature
records, and the ONNX model. Out: one result in the sink topic for each record.
"""
