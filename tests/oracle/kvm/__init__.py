"""Whole-machine cases on the kernel's virtual machine monitor: system instructions, faults and their delivery."""
