"""Windows to drift events and retrain requests."""
