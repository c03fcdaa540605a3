"""The version, in a file of its own so that `--version` and the packaging read it at no cost."""

__version__ = "0.1.0"
