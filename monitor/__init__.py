"""Notices drift: panes and windows of predictions and outcomes, tests, detectors, decisions."""
