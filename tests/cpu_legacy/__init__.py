"""Legacy protected mode: gates, tasks, virtual-8086 mode, by small kernels that also run on QEMU."""
