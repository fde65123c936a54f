"""Adapters to Azure; each needs the azure extra."""
