"""What does each kind of personal datum or secret look like? One module a family; the scanner in `..scanner` runs them."""
