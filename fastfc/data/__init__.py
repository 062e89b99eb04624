"""Data sets that are shipped or installed, and data that come in parts."""
