"""The monitor: QEMU's words about a guest, typed by a person or by gdb's `monitor`.

Layouts are those of QEMU 7.2's monitor, which scripts read; nothing but the layout is taken from there.
"""
