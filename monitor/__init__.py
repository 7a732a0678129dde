"""Monitor service: aggregate predictions and outcomes from Kafka by window, and detect drift."""
