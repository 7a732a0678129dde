"""Kafka programs with which the benchmarks compare Driftline's inference, one per module.

Each is written as a good engineer would write it. The programs do not import Driftline, and run in
any Python environment that has their library.
Input: a topic of feature records, and an ONNX model. Output: one result per record, in the sink
topic.
"""
