"""The version of fastfc."""

__version__ = "0.2.0"
