"""Out of the log: inference scores feature records, outcomes joins predictions with labels."""
