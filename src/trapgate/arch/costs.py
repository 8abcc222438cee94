"""Modelled cycles of an instruction, until cost profiles come: one, except where programs wait by counting time.

RDTSC and RDTSCP: assumed, the order of what family 10h takes (Software Optimization Guide, 40546, appendix C, has
latencies of tens of cycles for them).
"""

BASE_CYCLES = {"rdtsc": 40, "rdtscp": 60}
