"""gdb's remote serial protocol, from the stub's side.

Source: "Debugging with GDB", appendix E, "GDB Remote Serial Protocol"; appendix G, "Target Descriptions".
"""
