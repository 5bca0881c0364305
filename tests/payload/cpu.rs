//! `--cpus` and `--cpu`: what a guest's CPUs say of themselves.

use crate::guest::run;

/// EAX, EBX, ECX and EDX.
fn cpuid(leaf: &str, args: &[&str]) -> [u32; 4] {
    let outcome = run("cpuid", &[args, &["-a", leaf]].concat()).expect_status(0);
    let values = outcome.values("cpuid").next().unwrap();
    let values: Vec<_> = values.iter().map(|value| u32::from_str_radix(&value[2..], 16).unwrap()).collect();
    values.try_into().unwrap()
}

/// Features that every KVM supports: a software one supports no SSE, and shows guests the host's bits of it all the same.
const CX16: u32 = 1 << 13;
const LAHF: u32 = 1 << 0;

#[test]
fn a_feature_is_hidden_by_its_name_and_nothing_else() {
    let [host, masked] = ["host", "host,-cx16"].map(|model| cpuid("leaf=1", &["--cpu", model]));
    assert_eq!(host[2] & CX16, CX16);
    assert_eq!([host[0], host[1], host[2] & !CX16, host[3]], masked);
    let [host, masked] = ["max", "-lahf"].map(|model| cpuid("leaf=0x80000001", &["--cpu", model]));
    assert_eq!(host[2] & LAHF, LAHF);
    assert_eq!([host[0], host[1], host[2] & !LAHF, host[3]], masked);
}

#[test]
fn a_baseline_hides_what_it_lacks() {
    for (model, shown) in
        [("x86-64-v1", 0), ("x86-64-v1,+cx16", CX16), ("x86-64-v2,-sse3,-ssse3,-sse4.1,-sse4.2,-popcnt", CX16)]
    {
        assert_eq!(cpuid("leaf=1", &["--cpu", model])[2] & CX16, shown, "{model}");
    }
}

#[test]
fn sockets_cores_and_threads_have_their_levels() {
    // Threads to a core and their bits, then all of the socket.
    let cpus = ["-c", "8,sockets=2,threads=2"];
    assert_eq!(cpuid("leaf=0xb index=0", &cpus)[..3], [1, 2, 0x100]);
    assert_eq!(cpuid("leaf=0xb index=1", &cpus)[..3], [2, 4, 0x201]);
    assert_eq!(cpuid("leaf=1", &cpus)[1] >> 16 & 0xFF, 4);
}

#[test]
fn wrong_models_and_topologies_are_one_error() {
    for (args, text) in [
        (["--cpu", "i486"], "host, max, x86-64-v1"),
        (["--cpu", "-nothing"], "sse3, pclmulqdq"),
        (["-c", "4,cores=3"], "4 vCPUs are not sockets times cores times threads"),
        (["-c", "4,dies=2"], "sockets=S"),
    ] {
        let outcome = run("cpuid", &args).expect_status(2);
        assert!(outcome.stderr.contains(text) && outcome.stderr.lines().count() == 1, "{outcome:#?}");
    }
}

#[test]
fn what_the_host_lacks_is_named() {
    // No processor has both: one is of AMD's old ones, the other of Intel's new ones.
    let outcome = run("cpuid", &["--cpu", "host,+xop,+amx-tile"]).expect_status(125);
    assert!(outcome.stderr.contains("amx-tile") || outcome.stderr.contains("xop"), "{outcome:#?}");
}
