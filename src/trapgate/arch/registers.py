"""Register numbers, RFLAGS, CR0, CR4, EFER bits and MSR numbers.

Sources: AMD64 Architecture Programmer's Manual (APM) vol. 1 (24592) chapter 3, vol. 2 (24593) chapter 3 and appendix A.
"""

from __future__ import annotations

GPR_NAMES = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)

# Segment register numbers as instructions encode them (APM vol. 3, 1.4.1 sreg).
ES, CS, SS, DS, FS, GS = range(6)
SEGMENT_NAMES = ("es", "cs", "ss", "ds", "fs", "gs")

# RFLAGS (APM vol. 2, 3.1.6)
CF = 1 << 0
RFLAGS_ONE = 1 << 1
PF = 1 << 2
AF = 1 << 4
ZF = 1 << 6
SF = 1 << 7
TF = 1 << 8
IF = 1 << 9
DF = 1 << 10
OF = 1 << 11
IOPL = 3 << 12
IOPL_SHIFT = 12
NT = 1 << 14
RF = 1 << 16
VM = 1 << 17
AC = 1 << 18
VIF = 1 << 19
VIP = 1 << 20
ID = 1 << 21
ARITHMETIC_FLAGS = CF | PF | AF | ZF | SF | OF
#: Every flag that is not arithmetic; these live in one word of the state, the arithmetic ones are lazy.
SYSTEM_FLAGS = TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID
RFLAGS_WRITABLE = ARITHMETIC_FLAGS | SYSTEM_FLAGS

# CR0 (APM vol. 2, 3.1.1)
CR0_PE = 1 << 0
CR0_MP = 1 << 1
CR0_EM = 1 << 2
CR0_TS = 1 << 3
CR0_ET = 1 << 4
CR0_NE = 1 << 5
CR0_WP = 1 << 16
CR0_AM = 1 << 18
CR0_NW = 1 << 29
CR0_CD = 1 << 30
CR0_PG = 1 << 31
CR0_WRITABLE = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG

# CR4 (APM vol. 2, 3.1.3)
CR4_VME = 1 << 0
CR4_PVI = 1 << 1
CR4_TSD = 1 << 2
CR4_DE = 1 << 3
CR4_PSE = 1 << 4
CR4_PAE = 1 << 5
CR4_MCE = 1 << 6
CR4_PGE = 1 << 7
CR4_PCE = 1 << 8
CR4_OSFXSR = 1 << 9
CR4_OSXMMEXCPT = 1 << 10

# EFER (APM vol. 2, 3.1.7)
EFER_SCE = 1 << 0
EFER_LME = 1 << 8
EFER_LMA = 1 << 10
EFER_NXE = 1 << 11
EFER_SVME = 1 << 12
EFER_LMSLE = 1 << 13
EFER_FFXSR = 1 << 14

# Control-transfer recording (APM vol. 2, 13.1.1.5 and 13.1.1.6): DebugCtl and what it has recorded.
MSR_DEBUG_CTL = 0x1D9
MSR_LAST_BRANCH_FROM, MSR_LAST_BRANCH_TO, MSR_LAST_EXCEPTION_FROM, MSR_LAST_EXCEPTION_TO = 0x1DB, 0x1DC, 0x1DD, 0x1DE
DEBUG_CTL_LBR, DEBUG_CTL_BTF = 1 << 0, 1 << 1
