"""Looking at a guest while it runs: a server for gdb's remote protocol, and a monitor with QEMU's words.

`session.py` stops and lets go; `guest.py` is what both look at; `gdb/` and `monitor/` are the two languages.
"""
