"""Records to windows: what each partition puts into them, merged when they are complete."""
