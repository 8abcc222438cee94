"""Tests of the PC's devices."""
