"""AMD-V as L1 has it: its registers, and the two worlds of one virtual processor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate.arch import vmcb
from trapgate.arch.msrs import after_svm_key, vm_cr_after
from trapgate.arch.registers import CR0_PG, CR4_PAE, EFER_LME, EFER_SVME, IF, VM
from trapgate.arch.vectors import GP
from trapgate.arch.vmrun_checks import control_fault, pat_fault, state_fault
from trapgate.vmm.asids import Loses
from trapgate.vmm.control_block import ControlBlock
from trapgate.vmm.emulate import GuestFault
from trapgate.vmm.nested_svm.block import Vmcb12
from trapgate.vmm.nested_svm.paging import InnerWalker, NestedWalker
from trapgate.vmm.nested_svm.tables import InnerTables
from trapgate.vmm.permissions import PASSED, PermissionMaps
from trapgate.vmm.shadow.walk import GuestMode

if TYPE_CHECKING:
    from trapgate.vmm.vcpu import VirtualCpu

#: What L1 gets of the features that its processor and the host's have.
_OFFERED = frozenset((
    "NP", "LBR_VIRT", "SVM_LOCK", "NRIP_SAVE", "VMCB_CLEAN", "FLUSH_BY_ASID", "DECODE_ASSISTS", "PAUSE_FILTER",
    "PAUSE_FILTER_THRESHOLD",
))  # fmt: skip
_M64 = (1 << 64) - 1
#: CR8 in the intercept word of control registers: it is the board's while L1 does not mask interrupts.
_CR8 = 1 << 8 | 1 << 24
_BYTES_WITH = frozenset((vmcb.EXIT_EXCEPTION + 14, vmcb.EXIT_NPF))


class NestedSvm:
    """One virtual processor's. While `in_l2`, the processor's `block` is VMCB 02, else VMCB 01."""

    def __init__(self, vcpu: VirtualCpu, offered: bool) -> None:
        self.vcpu, self.vm = vcpu, vcpu.vm
        profile = self.vm.profile
        #: Whether the guest has AMD-V at all.
        self.offered = offered and "SVM" in profile.flags
        self.features = profile.svm_features & self.vm.backend.profile.svm_features & _OFFERED
        #: EFER.SVME as L1, or L2 while it runs, reads it; the processor's is always set.
        self.svme = False
        #: The global interrupt flag (15.17).
        self.gif = True
        self.vm_cr = self.hsave_pa = self.svm_key = self.ignne = 0
        self.in_l2 = False
        self.vmcb12: Vmcb12
        self.vmcb01 = vcpu.block
        self.vmcb02: ControlBlock
        #: What L2's TLB entries have to lose before it runs again.
        self.loses = Loses.EVERYTHING
        #: VMCB 02's V_IRQ only asks to be told when L2 can take a physical interrupt.
        self.window = False
        #: VMRUNs of L1's that were not refused, and #VMEXITs that it has got.
        self.entries = self.exits = 0
        self.ready = False
        self._context: tuple[object, ...] = ()

    # -- L1's registers

    def read_msr(self, number: int) -> int:
        """VM_CR, IGNNE, VM_HSAVE_PA and SVM_KEY (15.30). Raises GuestFault (#GP)."""
        known = {
            vmcb.MSR_VM_CR: self.vm_cr, vmcb.MSR_IGNNE: self.ignne, vmcb.MSR_VM_HSAVE_PA: self.hsave_pa,
            vmcb.MSR_SVM_KEY: 0,
        }  # fmt: skip
        if not self.offered or number not in known:
            raise GuestFault(GP, 0)
        return known[number]

    def write_msr(self, number: int, value: int) -> None:
        """Write them, or SMM_CTL; the value is one that arch/msrs.py takes. Raises GuestFault (#GP)."""
        if not self.offered:
            raise GuestFault(GP, 0)
        if number == vmcb.MSR_VM_HSAVE_PA:
            self.hsave_pa = value
        elif number == vmcb.MSR_SVM_KEY:
            self.vm_cr, self.svm_key = after_svm_key(self.vm_cr, self.svm_key, value)
        elif number == vmcb.MSR_VM_CR:
            vm_cr = vm_cr_after(self.vm_cr, value, self.svme)
            if vm_cr is None:
                raise GuestFault(GP, 0)
            self.vm_cr = vm_cr
        elif number == vmcb.MSR_IGNNE:
            self.ignne = value

    def set_svme(self, value: bool) -> None:
        """The guest has written EFER.SVME."""
        self.svme = value
        if not self.in_l2:
            # While it is clear, #GP of AMD-V's instructions should be #UD (nested_svm/instructions.py).
            block = self.vmcb01
            word = block.word(vmcb.INTERCEPT_EXCEPTIONS)
            block.set_word(vmcb.INTERCEPT_EXCEPTIONS, word & ~(1 << GP) | (0 if value else 1 << GP))

    @property
    def writable_efer(self) -> int:
        """EFER.SVME where the guest may set it."""
        return EFER_SVME if self.offered and not self.vm_cr & vmcb.VM_CR_SVMDIS else 0

    # -- into L2

    def prepare(self) -> None:
        """What is needed from the first VMRUN on."""
        vm = self.vm
        frames, owner = vm.frames, "hypervisor"
        self.vmcb02 = ControlBlock(vm.backend.memory, frames.allocate(owner))
        self._maps = PermissionMaps(frames, owner)
        self.tables = InnerTables(vm.memory)
        self.outer = NestedWalker(vm.memory, vm.profile)
        self.inner = InnerWalker(vm.memory, vm.profile, self.outer)
        self.asid = vm.asids.first()
        self.generation = vm.asids.generation
        places = [place for number in PASSED if (place := vmcb.msr_permission_bit(number)) is not None]
        self._map_bytes = tuple(sorted({place // 8 for place in places}))
        self._own_map = vm.backend.memory.read(vm.permissions.msrs, vmcb.MSRPM_SIZE)
        self.ready = True

    def enter(self, address: int) -> None:
        """VMRUN by L1, whose rip is behind it already, of the VMCB in its page at `address`."""
        vcpu, vm = self.vcpu, self.vm
        if not self.ready:
            self.prepare()
        block12 = self.vmcb12 = Vmcb12(vm.memory, address, self.features)
        if self._refused(block12) or (block12.nested and "NP" not in self.features) or self._pointers_refused(block12):
            self._refuse()
            return
        self.entries += 1
        if vcpu.window:
            vcpu.set_window(False)
        block = self.vmcb02
        self._merge(block12, block)
        vcpu.block = block
        event = block12.eventinj & ~0x7FFF_F000 if block12.eventinj & vmcb.EVENT_VALID else 0
        vcpu.event = vcpu.injected = event
        self.in_l2 = self.gif = self.svme = True
        self.window = False

    def _refused(self, block12: Vmcb12) -> bool:
        """What the consistency checks say (arch/vmrun_checks.py)."""
        profile, word = self.vm.profile, block12.word64
        return bool(
            control_fault(block12, profile, bool(self.vmcb01[vmcb.CR0] & CR0_PG))
            or state_fault(
                profile,
                word(vmcb.CR0),
                word(vmcb.CR3),
                word(vmcb.CR4),
                word(vmcb.EFER),
                word(vmcb.DR6),
                word(vmcb.DR7),
                word(vmcb.CS) >> 16 & 0xFFFF,
            )
            or (block12.nested and pat_fault(word(vmcb.G_PAT)))
        )

    def _pointers_refused(self, block12: Vmcb12) -> bool:
        """Without nested paging VMRUN loads the page-directory pointers of PAE, whose reserved bits must be 0."""
        cr0, cr4, efer = (block12.word64(field) for field in (vmcb.CR0, vmcb.CR4, vmcb.EFER))
        if block12.nested or not cr0 & CR0_PG or not cr4 & CR4_PAE or efer & EFER_LME:
            return False
        return self.outer.read_pdptes(block12.word64(vmcb.CR3)) is None

    def _refuse(self) -> None:
        self.vmcb12.write_refusal()
        self.gif = False
        self.exits += 1

    def _merge(self, block12: Vmcb12, block: ControlBlock) -> None:
        """VMCB 02: L2's state, and the intercepts of L0 and L1."""
        block01 = self.vmcb01
        block12.copy_state(block)
        own = block01.word(vmcb.INTERCEPT_CR)
        if block12.masks_interrupts:
            own &= ~_CR8
        block.set_word(vmcb.INTERCEPT_CR, own | block12.cr)
        block.set_word(vmcb.INTERCEPT_DR, block01.word(vmcb.INTERCEPT_DR) | block12.dr)
        block.set_word(vmcb.INTERCEPT_EXCEPTIONS, block01.word(vmcb.INTERCEPT_EXCEPTIONS) | block12.exceptions)
        own = block01.word(vmcb.INTERCEPT_MISC1) & ~vmcb.misc1("vintr")
        block.set_word(vmcb.INTERCEPT_MISC1, own | block12.misc1)
        block.set_word(vmcb.INTERCEPT_MISC2, block01.word(vmcb.INTERCEPT_MISC2) | block12.misc2)
        # Every port leaves L2, so that L0's map will do.
        block[vmcb.IOPM_BASE_PA] = block01[vmcb.IOPM_BASE_PA]
        block[vmcb.MSRPM_BASE_PA] = self._merged_msrs(block12)
        block[vmcb.TSC_OFFSET] = block01[vmcb.TSC_OFFSET] + block12.tsc_offset & _M64
        block[vmcb.VIRTUAL_INTERRUPT] = block12.virtual_interrupt | vmcb.V_INTR_MASKING
        block[vmcb.NESTED_CONTROL] = 1
        block[vmcb.LBR_CONTROL] = block12.own_records or block01[vmcb.LBR_CONTROL]
        if not block12.own_records:
            self._copy_records(block01, block)
        context: tuple[object, ...] = (block12.asid, block12.nested)
        if block12.nested:
            mode = GuestMode(self.vm.profile, block01[vmcb.CR0], block01[vmcb.CR4], block01[vmcb.EFER] & ~EFER_SVME)
            self.outer.use(mode, block12.n_cr3)
            context += (block12.n_cr3, mode.role)
            block[vmcb.N_CR3] = self.tables.root
        else:
            block[vmcb.N_CR3] = block01[vmcb.N_CR3]
            # Without nested paging VMRUN loads no PAT (15.25.4).
            block[vmcb.G_PAT] = block01[vmcb.G_PAT]
        if context != self._context or block12.tlb_control != vmcb.FLUSH_NOTHING:
            self._context = context
            self.forget()

    @staticmethod
    def _copy_records(source: ControlBlock, target: ControlBlock) -> None:
        """DebugCtl and the records of branches, which L2 shares with an L1 that gives it none of its own (15.23.1)."""
        for field in (vmcb.DBGCTL, vmcb.BR_FROM, vmcb.BR_TO, vmcb.LAST_EXCEPTION_FROM, vmcb.LAST_EXCEPTION_TO):
            target[field] = source[field]

    def _merged_msrs(self, block12: Vmcb12) -> int:
        """The MSR map of both: L0 lets few MSRs through, so only their bytes can differ from all ones."""
        permissions, memory = self.vm.permissions, self.vm.memory
        if not block12.misc1 & vmcb.misc1("msr"):
            return permissions.msrs
        host = self.vm.backend.memory.view
        for place in self._map_bytes:
            at = block12.msrpm + place
            wanted = memory.read(at, 1)[0] if memory.is_ram(at) else 0xFF
            host[self._maps.msrs + place] = self._own_map[place] | wanted
        return self._maps.msrs

    def forget(self) -> None:
        """L2 has to lose all translations."""
        self.loses = Loses.EVERYTHING
        if self.ready and self.tables.table_count > 1:
            self.tables.drop()

    def invalidate(self, linear: int, asid: int) -> None:
        """INVLPGA by L1 (15.16.3). Only its last guest's ASID has any translations.

        Which nested tables stand behind a linear address is not known: all of L1's go.
        """
        if not self.ready or not self._context or asid != self._context[0]:
            return
        if self._context[1]:
            self.forget()
        elif self.vcpu.technique.tagged:
            self.vm.backend.invlpga(linear, self.asid)

    @property
    def two_stages(self) -> bool:
        """L2 runs, on L1's nested tables."""
        return self.in_l2 and self.vmcb12.nested

    @property
    def tsc_ahead(self) -> int:
        """What L2's TSC is ahead of L1's. A write by L2 is one of L1's, to which L2's reads add this (15.5.1)."""
        return self.vmcb12.tsc_offset if self.in_l2 else 0

    def translate(self, linear: int, access: int) -> int:
        """L1's guest-physical address of L2's linear one under `two_stages`.

        Raises GuestFault (L2's page fault) and NestedPageFault (L1's).
        """
        block = self.vmcb02
        mode = GuestMode(self.vm.profile, block[vmcb.CR0], block[vmcb.CR4], block[vmcb.EFER])
        return self.inner.translate(mode, block[vmcb.CR3], linear, access)

    def before_entry(self) -> None:
        """Right before each entry of L2: its ASID, and what is flushed (vmm/asids.py)."""
        block, vm, technique = self.vmcb02, self.vm, self.vcpu.technique
        if technique.loses is not Loses.NOTHING or self.generation != vm.asids.generation:
            self.loses = Loses.EVERYTHING
        if technique.tagged:
            self.asid, control = vm.asids.prepare(self.asid, self.loses)
            self.generation = vm.asids.generation
        else:
            control = vmcb.FLUSH_ALL
        self.loses = Loses.NOTHING
        block.set_word(vmcb.ASID, self.asid)
        block.set_byte(vmcb.TLB_CONTROL, control)

    # -- out of L2

    def leave(self, code: int, info1: int = 0, info2: int = 0, next_rip: int = 0) -> None:
        """#VMEXIT to L1 (15.6). `next_rip`: that of an instruction that is intercepted, else 0."""
        vcpu, block, block01, block12 = self.vcpu, self.vmcb02, self.vmcb01, self.vmcb12
        event, vcpu.event = vcpu.event, 0
        if self.window:
            self.set_window(False)
        virtual = block[vmcb.VIRTUAL_INTERRUPT] & ~vmcb.V_INTR_MASKING
        virtual |= block12.virtual_interrupt & vmcb.V_INTR_MASKING
        block12.write_exit(block, (code, info1, info2, event), virtual, EFER_SVME if self.svme else 0)
        if "NRIP_SAVE" in self.features:
            block12.write_next_rip(next_rip)
        if code in _BYTES_WITH and "DECODE_ASSISTS" in self.features:
            block12.write_fetched(block)
        if not block12.nested:
            block01[vmcb.G_PAT] = block[vmcb.G_PAT]
        if not block12.own_records:
            self._copy_records(block, block01)
            block01[vmcb.LBR_CONTROL] = block[vmcb.LBR_CONTROL]
        block01[vmcb.TSC_OFFSET] = block[vmcb.TSC_OFFSET] - block12.tsc_offset & _M64
        block01[vmcb.CR2], block01[vmcb.DR6] = block[vmcb.CR2], block[vmcb.DR6]
        self._back_to_l1()
        self.svme = True

    def refused(self, vcpu: VirtualCpu) -> None:
        """The processor has refused L2's state: so does VMRUN for L1."""
        vcpu.event = 0
        self.window = False
        self.entries -= 1
        self.vmcb12.write_refusal()
        self._back_to_l1()

    def _back_to_l1(self) -> None:
        block01 = self.vmcb01
        block01[vmcb.DR7] = 0x400
        block01[vmcb.RFLAGS] &= ~VM
        block01.set_byte(vmcb.CPL, 0)
        self.vcpu.block = block01
        self.in_l2 = self.gif = False
        self.exits += 1

    def set_window(self, wanted: bool) -> None:
        """Exit, or no longer, as soon as L2 can take a physical interrupt; V_IRQ is L1's at other times."""
        self.window = wanted
        block, block12 = self.vmcb02, self.vmcb12
        word = block[vmcb.VIRTUAL_INTERRUPT]
        if wanted:
            self._virtual = word
            kept = word & vmcb.V_TPR_MASK | vmcb.V_INTR_MASKING
            block[vmcb.VIRTUAL_INTERRUPT] = kept | vmcb.V_IRQ | 0xF << vmcb.V_PRIORITY_SHIFT | vmcb.V_IGNORE_TPR
        else:
            block[vmcb.VIRTUAL_INTERRUPT] = self._virtual & ~vmcb.V_TPR_MASK | word & vmcb.V_TPR_MASK
        block.intercept("vintr", wanted or bool(block12.misc1 & vmcb.misc1("vintr")))

    # -- interrupts

    @property
    def takes_interrupts(self) -> bool:
        """Whether a physical interrupt would be taken while L2 runs: by L1's RFLAGS.IF or L2's (15.21.1)."""
        block = self.vmcb01 if self.vmcb12.masks_interrupts else self.vmcb02
        return self.gif and bool(block[vmcb.RFLAGS] & IF)

    @property
    def has_virtual_interrupt(self) -> bool:
        """Whether L2 can take its virtual interrupt (15.21.4)."""
        block = self.vmcb02
        word = self._virtual if self.window else block[vmcb.VIRTUAL_INTERRUPT]
        above = word & vmcb.V_IGNORE_TPR or word >> vmcb.V_PRIORITY_SHIFT & 0xF > word & 0xF
        return bool(word & vmcb.V_IRQ and above and block.interruptible)

    _virtual = 0
