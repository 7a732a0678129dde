"""The monitor service: aggregate predictions and outcomes by window, and publish drift events."""
