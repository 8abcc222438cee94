"""Exception vectors (APM vol. 2, table 8-1)."""

DE, DB, NMI, BP, OF, BR, UD, NM, DF = range(9)
TS, NP, SS, GP, PF = 10, 11, 12, 13, 14
MF, AC, MC, XF = 16, 17, 18, 19
SX = 30

#: Exceptions that push an error code.
WITH_ERROR_CODE = frozenset((DF, TS, NP, SS, GP, PF, AC, SX))
#: For double faults (APM vol. 2, 8.2.9, table 8-3).
CONTRIBUTORY = frozenset((DE, TS, NP, SS, GP, SX))
