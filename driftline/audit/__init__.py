"""Audit the topics: account for every record, follow causes, resend dead letters."""
