"""Adapters that need nothing but this machine."""
