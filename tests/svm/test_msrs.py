"""AMD-V's own MSRs: SVM_KEY, IGNNE, SMM_CTL (APM vol. 2, 15.30.2, 15.30.3, 15.30.5)."""

from __future__ import annotations

import pytest

from svm.conftest import Make
from trapgate.arch import layout, vmcb
from trapgate.arch.cpuid import OPTERON_2006
from trapgate.arch.vectors import GP
from trapgate.cpu.faults import Fault

_KEY = 0x1234_5678_9ABC_DEF0


@pytest.mark.parametrize(("key", "written", "opens"), [(_KEY, _KEY, True), (_KEY, _KEY ^ 1, False), (0, 0, False)])
def test_15_30_5_the_key_opens_the_lock(world: Make, key: int, written: int, opens: bool) -> None:
    p = world().processor
    p.write_msr(vmcb.MSR_SVM_KEY, key)
    p.write_msr(vmcb.MSR_VM_CR, vmcb.VM_CR_LOCK | vmcb.VM_CR_SVMDIS)
    p.write_msr(vmcb.MSR_SVM_KEY, written)
    assert p.read_msr(vmcb.MSR_VM_CR) == vmcb.VM_CR_SVMDIS | (0 if opens else vmcb.VM_CR_LOCK)
    assert p.read_msr(vmcb.MSR_SVM_KEY) == 0
    p.write_msr(vmcb.MSR_VM_CR, 0)
    assert p.read_msr(vmcb.MSR_VM_CR) == (0 if opens else vmcb.VM_CR_LOCK | vmcb.VM_CR_SVMDIS)


def test_a_locked_key_cannot_be_replaced_and_outlives_init(world: Make) -> None:
    p = world().processor
    p.write_msr(vmcb.MSR_SVM_KEY, _KEY)
    p.write_msr(vmcb.MSR_VM_CR, vmcb.VM_CR_LOCK)
    p.write_msr(vmcb.MSR_SVM_KEY, 5)
    p.initialize()
    p.write_msr(vmcb.MSR_SVM_KEY, 5)
    assert p.read_msr(vmcb.MSR_VM_CR) == vmcb.VM_CR_LOCK
    p.write_msr(vmcb.MSR_SVM_KEY, _KEY)
    assert p.read_msr(vmcb.MSR_VM_CR) == 0


def test_without_svm_lock_there_is_no_key(world: Make) -> None:
    p = world(profile=OPTERON_2006).processor
    for access in (lambda: p.read_msr(vmcb.MSR_SVM_KEY), lambda: p.write_msr(vmcb.MSR_SVM_KEY, 1)):
        with pytest.raises(Fault) as caught:
            access()
        assert caught.value.vector == GP


def test_15_30_2_ignne(world: Make) -> None:
    """While the signal is set a pending x87 exception stops nothing; HWCR.IGNNE_EM takes the pin away."""
    p = world().processor
    p.state.set(layout.CR0, p.cr0 & ~0x20)
    status = layout.FPU_STATUS >> 1
    for emulated in (False, True):
        p.write_msr(0xC001_0015, emulated << 8)
        p.state.w[status] = 0x80
        p.set_ignne(True)
        assert p.x87_error_waits == emulated
    p.write_msr(vmcb.MSR_IGNNE, 1)
    assert p.read_msr(vmcb.MSR_IGNNE) == 1
    p.state.w[status] = 0x80
    assert not p.x87_error_waits
    p.write_msr(vmcb.MSR_IGNNE, 0)
    assert p.x87_error_waits
    with pytest.raises(Fault):
        p.write_msr(vmcb.MSR_IGNNE, 2)


def test_15_30_3_smm_ctl(world: Make) -> None:
    """ENTER holds SMIs and NMIs back, DISMISS forgets the SMI that was intercepted, EXIT lets them in again."""
    p = world().processor
    p.smi_pending = True
    p.write_msr(vmcb.MSR_SMM_CTL, vmcb.SMM_CTL_DISMISS | vmcb.SMM_CTL_ENTER | vmcb.SMM_CTL_SMI_CYCLE)
    assert (p.in_smm, p.smi_pending, p.nmi_blocked) == (True, False, True)
    p.write_msr(vmcb.MSR_SMM_CTL, vmcb.SMM_CTL_EXIT | vmcb.SMM_CTL_RSM_CYCLE)
    assert (p.in_smm, p.nmi_blocked) == (False, False)
    for bad in (lambda: p.read_msr(vmcb.MSR_SMM_CTL), lambda: p.write_msr(vmcb.MSR_SMM_CTL, 1 << 5)):
        with pytest.raises(Fault):
            bad()
    p.write_msr(0xC001_0015, 1)
    p.write_msr(0xC001_0015, 0)
    assert p.read_msr(0xC001_0015) == 1  # SMMLOCK stays
    with pytest.raises(Fault):
        p.write_msr(vmcb.MSR_SMM_CTL, 0)
