"""Compare retrain policies on recorded data, and draw their report."""
