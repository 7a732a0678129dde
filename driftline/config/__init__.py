"""Load the user's configuration: the stream file and the environment variables."""
