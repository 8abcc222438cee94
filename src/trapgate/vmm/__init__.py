"""The hypervisor: it sees what silicon shows it, and nothing of how the processor works inside."""
