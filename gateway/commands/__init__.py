"""The commands that need the whole house or none of it."""
