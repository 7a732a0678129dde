"""Makes models: collect, clean, split, try candidates, judge, package, publish. One file a step."""
