"""Estimate a model's metric before labels are known, and measure how good the estimates were."""
