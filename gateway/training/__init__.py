"""Scripts that make the committed model weights. Never imported by the serving process; needs the development dependencies."""
