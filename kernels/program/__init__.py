"""The kernels that run a network, which is a table of integers."""
