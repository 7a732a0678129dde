"""Aggregate what one partition contributes to each window."""
