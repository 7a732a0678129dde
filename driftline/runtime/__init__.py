"""Run a service's handler in a loop that reads records, sends results and commits offsets."""
