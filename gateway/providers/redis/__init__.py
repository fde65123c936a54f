"""Adapters to a shared Redis."""
