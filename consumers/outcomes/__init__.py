"""Join predictions with their labels: a windowed join over a state store."""
