"""The code that all services share: stream file, events, topics, broker, loop, models."""
