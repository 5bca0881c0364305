//! What a vCPU tells of itself: KVM's supported features, with the topology of the guest. Sources: Intel SDM volume 2,
//! CPUID; AMD APM volume 3, appendix E.

use carpel_arch::Topology;
use carpel_arch::x86_64::cpu::{CpuModel, Feature, Register};
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

/// The features of vCPU `id` in this arrangement, from those that KVM supports.
pub fn features(
    supported: &[kvm_cpuid_entry2],
    id: u32,
    topology: Topology,
    tsc_deadline: bool,
    model: &CpuModel,
) -> Vec<kvm_cpuid_entry2> {
    let amd = supported.iter().any(|entry| entry.function == 0 && entry.ecx == AMD_VENDOR);
    let cpu = Cpu { id, topology, tsc_deadline, amd };
    let mut features = Vec::with_capacity(supported.len() + 2);
    for &(mut entry) in supported {
        match (entry.function, entry.index) {
            // KVM has one level or none here; ours are two.
            (0xB | 0x1F, 0) => features.extend(cpu.extended_topology(entry)),
            (0xB | 0x1F, _) => {}
            _ => {
                cpu.adjust(&mut entry);
                features.push(entry);
            }
        }
    }
    for feature in model.hidden() {
        if let Some((register, mask)) = find(&mut features, feature) {
            *register &= !mask;
        }
    }
    features
}

/// The features that the model must have and KVM does not support here.
pub fn missing(supported: &[kvm_cpuid_entry2], tsc_deadline: bool, model: &CpuModel) -> Vec<&'static str> {
    let mut supported = supported.to_vec();
    let mut have = |feature: &Feature| {
        (feature.name == "tsc-deadline" && tsc_deadline)
            || find(&mut supported, feature).is_some_and(|(register, mask)| *register & mask != 0)
    };
    model.required().filter(|feature| !have(feature)).map(|feature| feature.name).collect()
}

/// The register that shows a feature, and the bit.
fn find<'a>(entries: &'a mut [kvm_cpuid_entry2], feature: &Feature) -> Option<(&'a mut u32, u32)> {
    let entry = entries.iter_mut().find(|entry| (entry.function, entry.index) == (feature.leaf, feature.index))?;
    let register = match feature.register {
        Register::Eax => &mut entry.eax,
        Register::Ebx => &mut entry.ebx,
        Register::Ecx => &mut entry.ecx,
        Register::Edx => &mut entry.edx,
    };
    Some((register, 1 << feature.bit))
}

/// One vCPU among others.
struct Cpu {
    id: u32,
    topology: Topology,
    tsc_deadline: bool,
    amd: bool,
}

impl Cpu {
    /// vCPUs of a socket.
    const fn per_socket(&self) -> u32 {
        self.topology.cores * self.topology.threads
    }

    /// APIC ids that a socket takes.
    const fn socket_ids(&self) -> u32 {
        self.per_socket().next_power_of_two()
    }

    fn adjust(&self, entry: &mut kvm_cpuid_entry2) {
        let Self { id, topology: Topology { cores, threads, .. }, tsc_deadline, amd } = *self;
        let (ids, per_socket) = (self.socket_ids(), self.per_socket());
        match entry.function {
            0x1 => {
                // Bits 31-24: initial APIC id; bits 23-16: how many APIC ids the socket has.
                entry.ebx = entry.ebx & 0xFFFF | ids << 16 | id << 24;
                entry.ecx |= ECX_HYPERVISOR;
                // KVM_GET_SUPPORTED_CPUID leaves the deadline timer out before Linux 6.14; KVM has it all the same.
                entry.ecx = entry.ecx & !ECX_TSC_DEADLINE | flag(ECX_TSC_DEADLINE, tsc_deadline);
                entry.edx = entry.edx & !EDX_HTT | flag(EDX_HTT, per_socket > 1);
            }
            0x4 if entry.eax & CACHE_TYPE != 0 => {
                // Bits 31-26: cores of the socket less 1; bits 25-14: APIC ids that share the cache less 1.
                let core_ids = cores.next_power_of_two().min(64);
                entry.eax = entry.eax & 0x3FFF | (core_ids - 1) << 26 | self.sharing(entry.eax) << 14;
            }
            0x8000_0001 => {
                entry.ecx = entry.ecx & !AMD_ECX_CMP_LEGACY | flag(AMD_ECX_CMP_LEGACY, amd && per_socket > 1);
            }
            // Bits 7-0: the socket's threads less 1; bits 15-12: bits of an APIC id that tell them apart.
            0x8000_0008 if amd => entry.ecx = entry.ecx & !0xF0FF | (per_socket - 1) | id_bits(per_socket) << 12,
            0x8000_001D if entry.eax & CACHE_TYPE != 0 => {
                entry.eax = entry.eax & 0x3FFF | self.sharing(entry.eax) << 14;
            }
            // The extended APIC id; the core's id in its socket and its threads less 1; a node for each socket.
            0x8000_001E => {
                let core = id % per_socket / threads;
                (entry.eax, entry.ebx, entry.ecx) =
                    (id, (core & 0xFF) | ((threads - 1) << 8), (id / per_socket) & 0xFF);
            }
            _ => {}
        }
    }

    /// Two levels: the threads of a core, all of them in the socket.
    fn extended_topology(&self, entry: kvm_cpuid_entry2) -> [kvm_cpuid_entry2; 2] {
        let level = |index, eax, ebx, kind: u32| kvm_cpuid_entry2 {
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax,
            ebx,
            ecx: kind << 8 | index,
            edx: self.id,
            ..entry
        };
        let (threads, all) = (self.topology.threads, self.per_socket());
        [level(0, id_bits(threads), threads, LEVEL_SMT), level(1, id_bits(all), all, LEVEL_CORE)]
    }

    /// For a cache leaf: how many of a socket's APIC ids share the cache, less 1.
    const fn sharing(&self, eax: u32) -> u32 {
        let below = eax >> 5 & 0b111 < SHARED_CACHE_LEVEL;
        (if below { self.topology.threads.next_power_of_two() } else { self.socket_ids() }) - 1
    }
}

const fn flag(mask: u32, set: bool) -> u32 {
    if set { mask } else { 0 }
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

    /// One socket of single-threaded cores, and all that the host has.
    fn features(supported: &[kvm_cpuid_entry2], id: u32, cores: u32, tsc_deadline: bool) -> Vec<kvm_cpuid_entry2> {
        let topology = Topology { sockets: 1, cores, threads: 1 };
        super::features(supported, id, topology, tsc_deadline, &CpuModel::default())
    }

    #[test]
    fn threads_and_sockets_have_their_levels() {
        let supported = [entry(1, 0), entry(0xB, 0), entry(0x8000_001E, 0)];
        let topology = Topology { sockets: 2, cores: 2, threads: 2 };
        let features = super::features(&supported, 5, topology, false, &CpuModel::default());
        let [leaf1, smt, core, amd] = &features[..] else { panic!("{features:?}") };
        assert_eq!(leaf1.ebx >> 16, 4 | 5 << 8);
        assert_eq!((smt.eax, smt.ebx, core.eax, core.ebx, core.edx), (1, 2, 2, 4, 5));
        assert_eq!((amd.eax, amd.ebx, amd.ecx), (5, 1 << 8, 1));
    }

    #[test]
    fn a_model_hides_features_and_names_those_that_are_missing() {
        let supported = [entry(1, 0), kvm_cpuid_entry2 { ebx: 1 << 5 | 1 << 8, ..entry(7, 0) }];
        let topology = Topology { sockets: 1, cores: 1, threads: 1 };
        let model = CpuModel::parse("host,-avx2,-tsc-deadline,+sha,+tsc-deadline").unwrap();
        let features = super::features(&supported, 0, topology, true, &model);
        assert_eq!((features[0].ecx & ECX_TSC_DEADLINE, features[1].ebx), (ECX_TSC_DEADLINE, 1 << 8));
        assert_eq!(missing(&supported, true, &model), ["sha"]);
        assert_eq!(missing(&supported, true, &CpuModel::default()), [""; 0]);
        let hidden = super::features(&supported, 0, topology, true, &CpuModel::parse("-tsc-deadline").unwrap());
        assert_eq!(hidden[0].ecx & ECX_TSC_DEADLINE, 0);
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
