"""Layers, and how a network of them becomes a program for the kernels."""
