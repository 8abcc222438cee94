"""How guests' memory and privileged instructions are virtualized: one small class for each technique."""

from trapgate.vmm.techniques.base import Technique, TechniqueClass
from trapgate.vmm.techniques.nested import Nested, NestedTagged
from trapgate.vmm.techniques.shadow import Shadow, ShadowTagged
from trapgate.vmm.techniques.software import Software

#: By name, without the bare machine.
_ALL: tuple[TechniqueClass, ...] = (Software, Shadow, ShadowTagged, Nested, NestedTagged)
TECHNIQUES = {technique.name: technique for technique in _ALL}

__all__ = ["TECHNIQUES", "Nested", "NestedTagged", "Shadow", "ShadowTagged", "Software", "Technique", "TechniqueClass"]
