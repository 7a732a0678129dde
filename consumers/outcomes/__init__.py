"""Outcomes service: join predictions with their labels in a windowed stream join."""
