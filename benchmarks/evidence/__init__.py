"""Measurements quoted in the documentation; run them with `python -m benchmarks.evidence NAME`."""
