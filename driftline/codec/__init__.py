"""Bytes to values and back: feature records and labels, and the events that Driftline publishes."""
