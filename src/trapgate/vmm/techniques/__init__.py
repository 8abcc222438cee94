"""How guests' memory and privileged instructions are virtualized: one small class for each technique."""

from trapgate.vmm.techniques.base import Technique, TechniqueClass
from trapgate.vmm.techniques.nested import Nested, NestedTagged
from trapgate.vmm.techniques.shadow import Shadow, ShadowTagged

#: By name, without the bare machine.
TECHNIQUES: dict[str, TechniqueClass] = {
    technique.name: technique for technique in (Shadow, ShadowTagged, Nested, NestedTagged)
}

__all__ = ["TECHNIQUES", "Nested", "NestedTagged", "Shadow", "ShadowTagged", "Technique", "TechniqueClass"]
