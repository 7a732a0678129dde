"""Make models: collect, clean, split, search, judge, package, publish. Each has its own file."""
