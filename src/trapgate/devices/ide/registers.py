"""Registers and commands of ATA drives.

Source: ATA/ATAPI-6 (T13/1410D revision 3b), 7 (registers) and 8 (commands).
"""

from __future__ import annotations

# Offsets in the command block.
DATA = 0
ERROR_FEATURES = 1
COUNT = 2
LBA_LOW = 3
LBA_MID = 4
LBA_HIGH = 5
DEVICE = 6
STATUS_COMMAND = 7

# Status register (7.15).
ERR = 0x01
DRQ = 0x08
#: Seek complete in older standards, which drivers of the time test.
DSC = 0x10
DF = 0x20
DRDY = 0x40
BSY = 0x80
READY = DRDY | DSC

# Error register (7.9).
ABRT = 0x04
IDNF = 0x10
UNC = 0x40

# Device register (7.7).
LBA = 0x40
DEV = 0x10
#: Bits 7 and 5, which older standards want set.
OBSOLETE = 0xA0

# Device control register (7.8).
HOB = 0x80
SRST = 0x04
NIEN = 0x02

# Commands (annex E, table 1).
NOP = 0x00
DEVICE_RESET = 0x08
READ_SECTORS = 0x20
READ_SECTORS_ONCE = 0x21
READ_SECTORS_EXT = 0x24
READ_DMA_EXT = 0x25
READ_NATIVE_MAX_EXT = 0x27
READ_MULTIPLE_EXT = 0x29
WRITE_SECTORS = 0x30
WRITE_SECTORS_ONCE = 0x31
WRITE_SECTORS_EXT = 0x34
WRITE_DMA_EXT = 0x35
WRITE_MULTIPLE_EXT = 0x39
READ_VERIFY = 0x40
READ_VERIFY_ONCE = 0x41
READ_VERIFY_EXT = 0x42
SEEK = 0x70
EXECUTE_DIAGNOSTIC = 0x90
INITIALIZE_PARAMETERS = 0x91
PACKET = 0xA0
IDENTIFY_PACKET_DEVICE = 0xA1
READ_MULTIPLE = 0xC4
WRITE_MULTIPLE = 0xC5
SET_MULTIPLE = 0xC6
READ_DMA = 0xC8
READ_DMA_ONCE = 0xC9
WRITE_DMA = 0xCA
WRITE_DMA_ONCE = 0xCB
STANDBY_IMMEDIATE = 0xE0
IDLE_IMMEDIATE = 0xE1
STANDBY = 0xE2
IDLE = 0xE3
CHECK_POWER_MODE = 0xE5
SLEEP = 0xE6
FLUSH_CACHE = 0xE7
FLUSH_CACHE_EXT = 0xEA
IDENTIFY_DEVICE = 0xEC
SET_FEATURES = 0xEF
READ_NATIVE_MAX = 0xF8

SECTOR = 512
#: Diagnostic code of a drive that is well (9.10).
PASSED = 0x01
