"""Trapgate against other processors: the host's own CPU, and Unicorn for 16- and 32-bit code."""
