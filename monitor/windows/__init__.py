"""Build windows: aggregate the records of each partition, then merge complete windows."""
