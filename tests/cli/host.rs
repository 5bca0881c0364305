//! Hosts without KVM, with one that may not be used, or with one that is too little for Linux.

use std::fs;

use carpel_testbed::payload;
use serde_json::Value;
use tempfile::tempdir;

use crate::carpel::{WITHOUT_CAPABILITIES, carpel, expect_parts, hello, in_namespace, refusal, under};
use crate::guest::{Outcome, finish};

const NO_KVM: &str = "mount -t tmpfs none /dev";
const NO_PERMISSION: &str =
    "mount -t tmpfs none /mnt; touch /mnt/kvm; chmod 0 /mnt/kvm; mount --bind /mnt/kvm /dev/kvm";

#[test]
fn without_kvm_the_message_says_what_to_load() {
    let line = refusal(&mut in_namespace(NO_KVM, &hello(&[])), 125);
    expect_parts(&line, &["There is no /dev/kvm", "kvm_intel", "kvm_amd", "firmware"]);
}

#[test]
fn without_permission_the_message_names_the_group() {
    let line = refusal(&mut in_namespace(NO_PERMISSION, &under(&WITHOUT_CAPABILITIES, &hello(&[]))), 125);
    expect_parts(&line, &["No permission", "/dev/kvm", "group `kvm`"]);
}

#[test]
fn what_is_not_kvm_is_not_taken_for_it() {
    for file in ["/dev/null", "/proc/self/mem", "/etc"] {
        let script = match file {
            "/etc" => "mount -t tmpfs none /dev; mkdir /dev/kvm".to_owned(),
            _ => format!("mount --bind {file} /dev/kvm"),
        };
        let line = refusal(&mut in_namespace(&script, &hello(&[])), 125);
        expect_parts(&line, &["/dev/kvm"]);
    }
}

#[test]
fn a_report_tells_that_no_guest_came_to_run() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("run.json");
    let outcome = finish(&mut in_namespace(NO_KVM, hello(&["--report"]).arg(&file))).expect_status(125);
    let json: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!((&json["outcome"], &json["status"]), (&"failed".into(), &125.into()), "{json:#}");
    assert_eq!(outcome.stderr, format!("carpel: {}\n", json["message"].as_str().unwrap()));
}

#[test]
fn maps_and_plans_need_no_kvm() {
    for mut command in [carpel(&["map"]), carpel(&["map", "--arch", "riscv64", "-m", "64G"]), hello(&["--dry-run"])] {
        let with = finish(&mut command).expect_status(0);
        let without = finish(&mut in_namespace(NO_KVM, &command)).expect_status(0);
        assert!(with.stdout.lines().count() > 5, "{with:#?}");
        assert_eq!((without.stdout, without.stderr), (with.stdout, String::new()));
    }
}

#[test]
fn where_kvm_emulates_the_message_of_a_dead_guest_says_so() {
    let mut command = carpel(&["run", "-a", "how=internal-error", "-k"]);
    let outcome = finish(command.arg(payload::path("end"))).expect_status(121);
    let line = outcome.stderr.lines().next().unwrap();
    expect_parts(line, &["carpel: vCPU 0: ", "cannot emulate an instruction"]);
    // On other hosts the emulator stops at the same instruction, but that is no reason to get another host.
    assert_eq!(line.contains("no hardware virtualization"), !has_hardware_virtualization(), "{line}");
    assert_eq!(line.contains("use a host with VT-x or AMD-V"), !has_hardware_virtualization(), "{line}");
}

#[test]
fn the_doctor_judges_a_host_with_kvm() {
    let outcome = finish(&mut carpel(&["doctor"])).expect_status(0);
    check_findings(&outcome);
    assert!(!outcome.stdout.contains("FAIL"), "{outcome:#?}");
    let finding = if has_hardware_virtualization() { "guests run natively" } else { "emulates every instruction" };
    expect_parts(&outcome.stdout, &["layouts: krun, crosvm", "/dev/kvm opens", "API version 12", finding]);
}

#[test]
fn the_doctor_fails_a_host_without_kvm() {
    let without = finish(&mut in_namespace(NO_KVM, &carpel(&["doctor"]))).expect_status(125);
    check_findings(&without);
    expect_parts(&without.stdout, &["FAIL  There is no /dev/kvm", "kvm_intel"]);
    let doctor = under(&WITHOUT_CAPABILITIES, &carpel(&["doctor"]));
    let denied = finish(&mut in_namespace(NO_PERMISSION, &doctor)).expect_status(125);
    check_findings(&denied);
    expect_parts(&denied.stdout, &["FAIL  No permission", "group `kvm`"]);
}

/// Each line is a finding or a remedy, and each warning has one.
fn check_findings(outcome: &Outcome) {
    let lines: Vec<_> = outcome.stdout.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        assert!(["ok    ", "warn  ", "FAIL  ", "      remedy: "].iter().any(|start| line.starts_with(start)), "{line}");
        if line.starts_with("warn") {
            assert!(lines.get(index + 1).is_some_and(|next| next.starts_with("      remedy: ")), "{outcome:#?}");
        }
    }
    assert_eq!(outcome.stderr, "");
}

/// Whether the processor's flags have Intel's or AMD's virtualization.
fn has_hardware_virtualization() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap();
    flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}
