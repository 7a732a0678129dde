"""The measurements that the documentation quotes; run `python -m benchmarks.evidence NAME`."""
