"""Registers of the 8254x family, by their offsets in BAR 0, and what their bits mean.

Source: Intel, "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual" (317453), 13.4. Other
files of this folder cite it as "SDM".
"""

from __future__ import annotations

# 13.4.1 to 13.4.11: general.
CTRL, STATUS, EECD, EERD, CTRL_EXT, FLA, MDIC = 0x0000, 0x0008, 0x0010, 0x0014, 0x0018, 0x001C, 0x0020
FCAL, FCAH, FCT, VET, FCTTV = 0x0028, 0x002C, 0x0030, 0x0038, 0x0170
TXCW, RXCW, PBA, LEDCTL = 0x0178, 0x0180, 0x1000, 0x0E00
# 13.4.17 to 13.4.21: interrupts.
ICR, ITR, ICS, IMS, IMC = 0x00C0, 0x00C4, 0x00C8, 0x00D0, 0x00D8
# 13.4.22 to 13.4.32: receive.
RCTL, FCRTL, FCRTH = 0x0100, 0x2160, 0x2168
RDBAL, RDBAH, RDLEN, RDH, RDT = 0x2800, 0x2804, 0x2808, 0x2810, 0x2818
RDTR, RXDCTL, RADV, RSRPD = 0x2820, 0x2828, 0x282C, 0x2C00
# 13.4.33 to 13.4.49: transmit.
TCTL, TIPG, AIFS, TXDMAC = 0x0400, 0x0410, 0x0458, 0x3000
TDBAL, TDBAH, TDLEN, TDH, TDT = 0x3800, 0x3804, 0x3808, 0x3810, 0x3818
TIDV, TXDCTL, TADV, TSPMT = 0x3820, 0x3828, 0x382C, 0x3830
# 13.5: receive filters; 13.6: wake-up; 13.7: statistics.
RXCSUM, MTA, RA, VFTA = 0x5000, 0x5200, 0x5400, 0x5600
WUC, WUFC, WUS, MANC, IPAV, IP4AT, WUPL, WUPM, FFLT, FFMT, FFVT = (
    0x5800, 0x5808, 0x5810, 0x5820, 0x5838, 0x5840, 0x5900, 0x5A00, 0x5F00, 0x9000, 0x9800,
)  # fmt: skip
MTA_WORDS, RA_WORDS, VFTA_WORDS = 128, 32, 128
FIRST_STATISTIC, LAST_STATISTIC = 0x4000, 0x40FC
# 13.8: diagnostic access to the packet buffer's FIFO.
RDFH, RDFT, RDFHS, RDFTS, RDFPC = 0x2410, 0x2418, 0x2420, 0x2428, 0x2430
TDFH, TDFT, TDFHS, TDFTS, TDFPC = 0x3410, 0x3418, 0x3420, 0x3428, 0x3430
PBM, PBM_END = 0x10000, 0x20000

# CTRL (table 13-3).
CTRL_FD, CTRL_SLU, CTRL_RST, CTRL_VME, CTRL_PHY_RST = 1 << 0, 1 << 6, 1 << 26, 1 << 30, 1 << 31
# STATUS (table 13-4): full duplex, link up, 1000 Mb/s as set and as detected.
STATUS_FD, STATUS_LU, STATUS_1000 = 1 << 0, 1 << 1, 2 << 6 | 2 << 8
CTRL_EXT_EE_RST = 1 << 13

# ICR (table 13-63).
TXDW, TXQE, LSC, RXDMT0, RXO, RXT0, MDAC, TXD_LOW, SRPD = (
    1 << 0, 1 << 1, 1 << 2, 1 << 4, 1 << 6, 1 << 7, 1 << 9, 1 << 15, 1 << 16,
)  # fmt: skip
CAUSES = 0x0001_FFFF

# RCTL (table 13-67).
RCTL_EN, RCTL_UPE, RCTL_MPE, RCTL_LPE = 1 << 1, 1 << 3, 1 << 4, 1 << 5
RCTL_LBM, RCTL_RDMTS_SHIFT, RCTL_MO_SHIFT = 3 << 6, 8, 12
RCTL_BAM, RCTL_BSIZE_SHIFT, RCTL_VFE = 1 << 15, 16, 1 << 18
RCTL_CFIEN, RCTL_CFI, RCTL_BSEX, RCTL_SECRC = 1 << 19, 1 << 20, 1 << 25, 1 << 26

# TCTL (table 13-76).
TCTL_EN, TCTL_PSP = 1 << 1, 1 << 3
# TIDV, RDTR: the delay, and "now" (13.4.30, 13.4.44). In units of 1.024 us; ITR in units of 256 ns.
DELAY, FLUSH_NOW = 0xFFFF, 1 << 31
DELAY_NANOSECONDS, INTERVAL_NANOSECONDS = 1024, 256

# RXCSUM (table 13-102) and receive addresses (13.5.3).
PCSS, IPOFL, TUOFL = 0xFF, 1 << 8, 1 << 9
RAH_VALID = 1 << 31

#: For each register that only keeps what is written: the bits that it keeps. Reserved ones read 0.
PLAIN: dict[int, int] = {
    CTRL_EXT: 0xFFFF_FFFF & ~CTRL_EXT_EE_RST, FLA: 0xF, FCAL: 0xFFFF_FFFF, FCAH: 0xFFFF, FCT: 0xFFFF, VET: 0xFFFF,
    FCTTV: 0xFFFF, TXCW: 0xC000_FFFF, PBA: 0xFFFF, LEDCTL: 0xFFFF_FFFF, ITR: 0xFFFF, RCTL: 0x06FF_FFFE,
    FCRTL: 0x8000_FFF8, FCRTH: 0xFFF8, RDBAL: 0xFFFF_FFF0, RDBAH: 0xFFFF_FFFF, RDLEN: 0xF_FF80, RDH: 0xFFFF,
    RDT: 0xFFFF, RDTR: DELAY, RXDCTL: 0x013F_3F3F, RADV: DELAY, RSRPD: 0xFFF, TCTL: 0x01FF_FFFA, TIPG: 0x3FFF_FFFF,
    AIFS: 0xFFFF, TXDMAC: 1, TDBAL: 0xFFFF_FFF0, TDBAH: 0xFFFF_FFFF, TDLEN: 0xF_FF80, TDH: 0xFFFF, TDT: 0xFFFF,
    TIDV: DELAY, TXDCTL: 0xFF3F_3F3F, TADV: DELAY, TSPMT: 0xFFFF_FFFF, RXCSUM: 0x7FF, WUC: 0xF, WUFC: 0xF_FFFF,
    WUS: 0xF_FFFF, MANC: 0xFFFF_FFFF, IPAV: 0x1_000F, WUPL: 0xFFFF,
    **{RDFH + 8 * n: 0x1FFF for n in range(5)}, **{TDFH + 8 * n: 0x1FFF for n in range(5)},
    **{MTA + 4 * n: 0xFFFF_FFFF for n in range(MTA_WORDS)},
    **{RA + 4 * n: 0x8003_FFFF if n % 2 else 0xFFFF_FFFF for n in range(RA_WORDS)},
    **{VFTA + 4 * n: 0xFFFF_FFFF for n in range(VFTA_WORDS)},
    **{IP4AT + 4 * n: 0xFFFF_FFFF for n in range(8)}, **{WUPM + 4 * n: 0xFFFF_FFFF for n in range(32)},
    **{FFLT + 8 * n: 0x7FF for n in range(4)}, **{FFMT + 8 * n: 0xF for n in range(128)},
    **{FFVT + 8 * n: 0xFFFF_FFFF for n in range(128)},
}  # fmt: skip
#: What registers hold after a reset where that is not 0. PBA: 48 KB for receiving, 16 KB for transmitting (13.4.16).
RESET_VALUES = {PBA: 0x0010_0030, TIPG: 0x0060_2008, TXDCTL: 0, RXDCTL: 0x0101_0000, LEDCTL: 0x0706_8302}
#: Tables that a reset does not touch (14.3: they must be written by software).
KEPT_TABLES = (range(MTA, MTA + 4 * MTA_WORDS), range(VFTA, VFTA + 4 * VFTA_WORDS))
