"""CPU profiles by name (arch/profiles has them)."""

from trapgate.arch.profiles import OPTERON_2006, OPTERON_2007, PROFILES, CpuProfile

__all__ = ["OPTERON_2006", "OPTERON_2007", "PROFILES", "CpuProfile"]
