"""Handle model packages: encode, sign, store, verify and load them, and score with their models."""
