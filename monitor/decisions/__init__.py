"""Decide: from windows to drift events and retrain requests."""
