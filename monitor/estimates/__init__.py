"""Estimate a model's metric in each window before labels arrive, and check these estimates."""
