"""A disk and a network card without registers: a guest reaches them by hypercalls alone (docs/hypercalls.md)."""
