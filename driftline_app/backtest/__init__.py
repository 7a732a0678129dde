"""Replay recorded data with several retrain policies, compare the results, and draw a report."""
