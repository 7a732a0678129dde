"""Help applications: find their stream and broker, open saved runs, and read events."""
