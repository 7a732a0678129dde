"""Run a handler in a loop that reads, sends and commits."""
