"""Pack, sign, store, verify, load and score models."""
