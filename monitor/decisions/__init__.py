"""Decide from the monitor's window events which drift events and retrain requests to publish."""
