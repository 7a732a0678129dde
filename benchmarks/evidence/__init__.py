"""Measurements behind `docs/evidence`: `python -m benchmarks.evidence NAME`."""
