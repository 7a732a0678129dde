"""Estimate models' window metrics before labels are known, and measure the estimates' accuracy."""
