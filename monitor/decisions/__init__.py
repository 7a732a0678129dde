"""Decide which drift events and retrain requests to publish, based on the window events."""
