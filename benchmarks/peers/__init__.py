"""What Driftline is compared with: each a small program as a good engineer would write it.

They know nothing of Driftline and run in any Python that has their library. In: a topic of feature
records, the ONNX model. Out: one record of the sink for each of the source.
"""
