"""The command `fastfc`."""
