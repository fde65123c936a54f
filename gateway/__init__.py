"""A secure inference gateway: every request identified, permitted, constrained, inspected and recorded before it leaves."""

__version__ = "0.1.0"
