"""Vectors of the processor, and what computes on them without memory: loads, stores, tiles, elementary functions."""
