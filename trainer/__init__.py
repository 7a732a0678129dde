"""Trainer service: collect, clean, split, search, judge, package and publish, a file per step."""
