//! `carpel doctor`: what this host can run, each finding with its remedy.

use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

use carpel_arch::LAYOUTS;
use carpel_arch::map::{Address, Arch};
use carpel_vmm::kvm::{self, Abilities};

use crate::cli::FAILURE;
use crate::output;

/// One thing that was looked at.
struct Finding {
    grade: Grade,
    text: String,
    /// What to do about it.
    remedy: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Grade {
    /// As it should be.
    Good,
    /// Guests run, but not as well as they could, or not all of them.
    Limited,
    /// No guest runs.
    Broken,
}

/// Prints the findings. The status says whether the host can run a guest at all.
pub fn run() -> ExitCode {
    let mut findings = vec![layouts()];
    match Abilities::query() {
        Ok(abilities) => findings.extend(judge(&abilities)),
        Err(error) => findings.push(Finding {
            grade: Grade::Broken,
            text: format!("{:#}", anyhow::Error::from(error)),
            remedy: None,
        }),
    }
    findings.extend([huge_pages(), overcommit()].into_iter().flatten());
    let mut text = String::new();
    for finding in &findings {
        let grade = match finding.grade {
            Grade::Good => "ok  ",
            Grade::Limited => "warn",
            Grade::Broken => "FAIL",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{grade}  {}", finding.text);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "      remedy: {remedy}");
        }
    }
    if let Err(error) = output::print(&text) {
        output::complain(error);
        return ExitCode::from(FAILURE);
    }
    if findings.iter().any(|finding| finding.grade == Grade::Broken) {
        ExitCode::from(FAILURE)
    } else {
        ExitCode::SUCCESS
    }
}

impl Finding {
    fn good(text: impl Into<String>) -> Self {
        Self { grade: Grade::Good, text: text.into(), remedy: None }
    }

    fn limited(text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { grade: Grade::Limited, text: text.into(), remedy: Some(remedy.into()) }
    }
}

fn layouts() -> Finding {
    let names: Vec<_> =
        LAYOUTS.iter().filter(|layout| Some(layout.arch) == Arch::HOST).map(|layout| layout.name).collect();
    Finding::good(format!("{} host; layouts: {}", std::env::consts::ARCH, names.join(", ")))
}

fn judge(abilities: &Abilities) -> Vec<Finding> {
    let Abilities { version, missing, max_vcpus, phys_bits, hardware } = abilities;
    let mut findings = vec![
        Finding::good(format!("{} opens, API version {version}", kvm::DEVICE)),
        Finding::good(format!(
            "KVM takes guests of up to {max_vcpus} vCPUs, with addresses up to {}",
            Address(1 << phys_bits)
        )),
    ];
    findings.push(if missing.is_empty() {
        Finding::good("KVM has all capabilities that carpel needs")
    } else {
        Finding {
            grade: Grade::Broken,
            text: format!("KVM lacks {}", missing.join(", ")),
            remedy: Some("Run a newer Linux kernel on this host".into()),
        }
    });
    findings.push(if *hardware {
        Finding::good("The processor offers hardware virtualization: guests run natively")
    } else {
        Finding::limited(
            "The processor offers no hardware virtualization: KVM emulates every instruction; small test guests run, \
             Linux does not",
            "Use a host with VT-x or AMD-V, enable it in the firmware, or enable nested virtualization",
        )
    });
    findings
}

/// Without huge pages a guest still runs, with some hundred times as many page faults.
fn huge_pages() -> Option<Finding> {
    let setting = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    Some(if setting.contains("[never]") {
        Finding::limited(
            "Transparent huge pages are off: guests start slower",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        )
    } else {
        Finding::good("Transparent huge pages back guest memory")
    })
}

/// A guest's memory is reserved, not taken; strict accounting refuses what is not there.
fn overcommit() -> Option<Finding> {
    let setting = fs::read_to_string("/proc/sys/vm/overcommit_memory").ok()?;
    Some(if setting.trim() == "2" {
        Finding::limited(
            "The host does not overcommit memory: a guest's --mem must be free",
            "sysctl vm.overcommit_memory=0",
        )
    } else {
        Finding::good("The host overcommits memory: --mem may exceed what is free")
    })
}
