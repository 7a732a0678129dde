"""Turn columns into the matrix of a model, and compute metrics."""
