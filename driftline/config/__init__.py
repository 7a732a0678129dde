"""Read what a user configures: the stream file and environment variables."""
