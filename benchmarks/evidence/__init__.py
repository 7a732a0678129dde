"""The measurements that the documentation quotes: `python -m benchmarks.evidence NAME` runs one."""
