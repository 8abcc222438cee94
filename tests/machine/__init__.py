"""Tests of the bus, the clock and what else devices stand on."""
