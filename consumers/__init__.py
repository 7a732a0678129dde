"""Consumer services: inference scores feature records; outcomes joins predictions with labels."""
