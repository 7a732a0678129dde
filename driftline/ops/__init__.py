"""Operate services: processes, supervision, health, status, diagnosis and access rights."""
