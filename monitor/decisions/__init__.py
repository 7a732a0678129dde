"""Decide, from window events, which drift events and retrain requests to publish."""
