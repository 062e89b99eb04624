"""Networks: `Sequential`, `MLP` and `Graph`."""
