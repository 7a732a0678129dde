"""Train models: collect, clean, split, search, judge, package and publish, one file per step."""
