"""Measurements that show what Driftline's drift decisions are worth, one module each."""
