"""Model packages: pack, sign, store, verify, load, score."""
