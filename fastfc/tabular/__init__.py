"""`fastfc train` and `fastfc predict`: networks for tables."""
