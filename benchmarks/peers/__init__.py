"""Programs to compare Driftline's inference with, each written as a good engineer would write it.

They do not import Driftline, and run in any Python environment that has their library.
Input: a topic of feature records, and an ONNX model. Output: one result per record, in the sink
topic.
"""
