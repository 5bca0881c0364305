//! What a vCPU tells of itself: KVM's supported features, with the topology of the guest. Sources: Intel SDM volume 2,
//! CPUID; AMD APM volume 3, appendix E.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;
const AMD_ECX_CMP_LEGACY: u32 = 1 << 1;
/// The last letters of "AuthenticAMD", in leaf 0's ECX.
const AMD_VENDOR: u32 = u32::from_le_bytes(*b"cAMD");
/// Cache type in the cache leaves' EAX; 0 ends their list.
const CACHE_TYPE: u32 = 0x1F;
/// Cache levels below the third belong to one core.
const SHARED_CACHE_LEVEL: u32 = 3;
/// Level types of the extended topology leaves.
const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// The features of vCPU `id` of `count`, one core each in one socket, from those that KVM supports.
pub fn features(supported: &[kvm_cpuid_entry2], id: u32, count: u32, tsc_deadline: bool) -> Vec<kvm_cpuid_entry2> {
    let amd = supported.iter().any(|entry| entry.function == 0 && entry.ecx == AMD_VENDOR);
    let mut features = Vec::with_capacity(supported.len() + 2);
    for &(mut entry) in supported {
        match (entry.function, entry.index) {
            // KVM has one level or none here; ours are two.
            (0xB | 0x1F, 0) => features.extend(extended_topology(entry, id, count)),
            (0xB | 0x1F, _) => {}
            _ => {
                adjust(&mut entry, id, count, tsc_deadline, amd);
                features.push(entry);
            }
        }
    }
    features
}

fn adjust(entry: &mut kvm_cpuid_entry2, id: u32, count: u32, tsc_deadline: bool, amd: bool) {
    let ids = count.next_power_of_two();
    match entry.function {
        0x1 => {
            // Bits 31-24: initial APIC id; bits 23-16: how many APIC ids the socket has.
            entry.ebx = entry.ebx & 0xFFFF | ids << 16 | id << 24;
            entry.ecx |= ECX_HYPERVISOR;
            // KVM_GET_SUPPORTED_CPUID leaves the deadline timer out before Linux 6.14; KVM has it all the same.
            entry.ecx = entry.ecx & !ECX_TSC_DEADLINE | flag(ECX_TSC_DEADLINE, tsc_deadline);
            entry.edx = entry.edx & !EDX_HTT | flag(EDX_HTT, count > 1);
        }
        0x4 if entry.eax & CACHE_TYPE != 0 => {
            // Bits 31-26: cores of the socket less 1; bits 25-14: APIC ids that share the cache less 1.
            entry.eax = entry.eax & 0x3FFF | (ids - 1) << 26 | sharing(entry.eax, ids) << 14;
        }
        0x8000_0001 => {
            entry.ecx = entry.ecx & !AMD_ECX_CMP_LEGACY | flag(AMD_ECX_CMP_LEGACY, amd && count > 1);
        }
        // Bits 7-0: cores less 1; bits 15-12: bits of an APIC id that tell them apart.
        0x8000_0008 if amd => entry.ecx = entry.ecx & !0xF0FF | (count - 1) | id_bits(count) << 12,
        0x8000_001D if entry.eax & CACHE_TYPE != 0 => {
            entry.eax = entry.eax & 0x3FFF | sharing(entry.eax, ids) << 14;
        }
        // The extended APIC id; the core's id, with one thread each; one node.
        0x8000_001E => (entry.eax, entry.ebx, entry.ecx) = (id, id & 0xFF, 0),
        _ => {}
    }
}

/// Two levels: one thread to a core, all cores in the socket.
fn extended_topology(entry: kvm_cpuid_entry2, id: u32, count: u32) -> [kvm_cpuid_entry2; 2] {
    let level = |index, eax, ebx, kind: u32| kvm_cpuid_entry2 {
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: kind << 8 | index,
        edx: id,
        ..entry
    };
    [level(0, 0, 1, LEVEL_SMT), level(1, id_bits(count), count, LEVEL_CORE)]
}

const fn flag(mask: u32, set: bool) -> u32 {
    if set { mask } else { 0 }
}

/// For a cache leaf: how many of a socket's APIC ids share the cache, less 1.
const fn sharing(eax: u32, ids: u32) -> u32 {
    if eax >> 5 & 0b111 < SHARED_CACHE_LEVEL { 0 } else { ids - 1 }
}

/// Bits that APIC ids 0 to `count` - 1 take.
const fn id_bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, ..Default::default() }
    }

    #[test]
    fn every_vcpu_has_its_own_apic_id_in_one_socket() {
        let supported = [entry(1, 0), entry(0xB, 0), entry(0xB, 1), entry(0x8000_001E, 0)];
        for id in 0..3 {
            let features = features(&supported, id, 3, true);
            let find = |function, index| features.iter().find(|e| (e.function, e.index) == (function, index)).unwrap();
            assert_eq!(find(1, 0).ebx >> 16, 4 | id << 8);
            assert_eq!(find(1, 0).ecx, ECX_HYPERVISOR | ECX_TSC_DEADLINE);
            assert_eq!((find(0xB, 0).eax, find(0xB, 0).ebx, find(0xB, 0).ecx, find(0xB, 0).edx), (0, 1, 0x100, id));
            assert_eq!((find(0xB, 1).eax, find(0xB, 1).ebx, find(0xB, 1).ecx, find(0xB, 1).edx), (2, 3, 0x201, id));
            assert_eq!(find(0x8000_001E, 0).eax, id);
            assert_eq!(features.len(), 4);
        }
    }

    #[test]
    fn only_the_last_level_cache_is_shared() {
        let cache = |level: u32| kvm_cpuid_entry2 { eax: 0xFFFF_C000 | level << 5 | 1, ..entry(4, level) };
        let features = features(&[cache(1), cache(3)], 0, 4, false);
        assert_eq!(features[0].eax, 3 << 26 | 1 << 5 | 1);
        assert_eq!(features[1].eax, 3 << 26 | 3 << 14 | 3 << 5 | 1);
    }

    #[test]
    fn a_single_cpu_has_no_siblings() {
        let all = kvm_cpuid_entry2 { ecx: u32::MAX, edx: u32::MAX, ..entry(1, 0) };
        let features = features(&[all], 0, 1, false);
        assert_eq!(features[0].edx & EDX_HTT, 0);
        assert_eq!(features[0].ecx & ECX_TSC_DEADLINE, 0);
    }
}
