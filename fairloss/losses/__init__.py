"""The losses, one file an idea."""
