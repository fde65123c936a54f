"""The world, one adapter a file."""
