"""Provide functions for applications: connect to a broker, read events, and open saved runs."""
