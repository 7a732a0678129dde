"""Detect drift: aggregate predictions and outcomes in windows, test them, publish drift events."""
