"""Operate services: processes, supervision, health, status, access rights."""
