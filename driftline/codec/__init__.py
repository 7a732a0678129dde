"""Encode and decode feature records, labels, and the events that Driftline publishes."""
