"""The local APIC's registers, as the manual states them.

Source: AMD64 Architecture Programmer's Manual, volume 2 (24593), chapter 16, "Advanced Programmable Interrupt
Controller".
"""

#: Guest-physical address after reset and size of the registers.
BASE = 0xFEE0_0000
SIZE = 4096

# Register offsets (volume 2, table 16-2).
ID = 0x020
VERSION = 0x030
TPR = 0x080
APR = 0x090
PPR = 0x0A0
EOI = 0x0B0
RRD = 0x0C0
LDR = 0x0D0
DFR = 0x0E0
SVR = 0x0F0
ISR = 0x100
TMR = 0x180
IRR = 0x200
ESR = 0x280
ICR_LOW = 0x300
ICR_HIGH = 0x310
LVT_TIMER = 0x320
LVT_THERMAL = 0x330
LVT_PERFORMANCE = 0x340
LVT_LINT0 = 0x350
LVT_LINT1 = 0x360
LVT_ERROR = 0x370
INITIAL_COUNT = 0x380
CURRENT_COUNT = 0x390
DIVIDE = 0x3E0

#: Version 10h, the last LVT entry is number 5. Bit 31 is 0: no extended register space.
VERSION_VALUE = 5 << 16 | 0x10

# Local vector table (volume 2, section 16.4).
LVT_MASKED = 1 << 16
LVT_LEVEL = 1 << 15
LVT_REMOTE_IRR = 1 << 14
LVT_PENDING = 1 << 12
LVT_WRITABLE = {
    LVT_TIMER: 0x300FF,
    LVT_THERMAL: 0x107FF,
    LVT_PERFORMANCE: 0x107FF,
    LVT_LINT0: 0x1A7FF,
    LVT_LINT1: 0x1A7FF,
    LVT_ERROR: 0x100FF,
}

# Delivery modes.
FIXED = 0
LOWEST_PRIORITY = 1
SMI = 2
NMI = 4
INIT = 5
STARTUP = 6
EXTINT = 7
#: Those that RFLAGS.IF does not hold back.
UNMASKABLE = frozenset((SMI, NMI, INIT))

SVR_ENABLED = 0x100
SVR_WRITABLE = 0x3FF

# Error status (volume 2, section 16.4.6).
ERROR_SEND_ACCEPT = 0x04
ERROR_SENT_ILLEGAL_VECTOR = 0x20
ERROR_RECEIVED_ILLEGAL_VECTOR = 0x40
ERROR_ILLEGAL_REGISTER = 0x80

# Interrupt command (volume 2, section 16.5).
ICR_LOGICAL = 1 << 11
ICR_ASSERT = 1 << 14
ICR_LEVEL = 1 << 15
ICR_WRITABLE = 0xCCFFF
SHORTHAND_SHIFT = 18
SELF = 1
ALL = 2
OTHERS = 3
BROADCAST = 0xFF

# APIC base address register, MSR 1Bh (volume 2, section 16.3.1).
BASE_BOOTSTRAP = 1 << 8
BASE_ENABLED = 1 << 11
BASE_ADDRESS_MASK = 0x000F_FFFF_FFFF_F000

NO_VECTOR = -1
