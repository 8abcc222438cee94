"""CPU profiles: which instructions exist, and what CPUID, the control registers and the MSRs are."""

from trapgate.arch.profiles.amd import OPTERON_2006, OPTERON_2007
from trapgate.arch.profiles.intel import I486, PENTIUM, PENTIUM3
from trapgate.arch.profiles.profile import CpuProfile

PROFILES = {profile.name: profile for profile in (OPTERON_2007, OPTERON_2006, PENTIUM3, PENTIUM, I486)}

__all__ = ["I486", "OPTERON_2006", "OPTERON_2007", "PENTIUM", "PENTIUM3", "PROFILES", "CpuProfile"]
