"""The BIOS: boot sectors that call its services, run on the whole machine, and its parts alone."""
