"""Merge all partitions' partial aggregates into windows, and test complete windows for drift."""
