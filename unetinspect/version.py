"""The version, in a file of its own: the package and its packaging read it."""

__version__ = "0.1.0"
