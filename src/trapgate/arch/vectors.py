"""Exception vectors (APM vol. 2, table 8-1)."""

DE, DB, NMI, BP, OF, BR, UD, NM, DF = range(9)
TS, NP, SS, GP, PF = 10, 11, 12, 13, 14
MF, AC, MC, XF = 16, 17, 18, 19
