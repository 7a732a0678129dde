"""Audit a stream from its topics: account for every record, trace causes, resend dead letters."""
