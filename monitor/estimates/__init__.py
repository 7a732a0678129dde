"""Estimate a model's metric before labels are known, and measure the estimates' accuracy."""
