"""Merge the partial aggregates of all partitions into windows, and judge them."""
