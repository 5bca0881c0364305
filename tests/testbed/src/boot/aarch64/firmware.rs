//! The distribution's firmware, to its prompt, in the layout that it was built for.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::super::{ended_with, step};
use crate::host::{Host, Output, Step};
use crate::packages::candidate;

/// edk2 prints its menus a byte at a time, and an emulated host takes milliseconds for each.
const LIMIT: Duration = Duration::from_mins(5);

/// Types an answer when the guest has asked for it, as a person would: what is typed too early, firmware throws away.
const TYPIST: &str = r#"
rm -f typed shown
mkfifo typed
./carpel run @ARGUMENTS@ <typed >shown 2>&1 &
carpel=$!
exec 3>typed
answer() {
    until grep -q "$1" shown; do kill -0 $carpel 2>/dev/null || break; sleep 0.2; done
    printf "$2" >&3
}
@ANSWERS@
wait $carpel
status=$?
cat shown
exit $status
"#;

/// The images.
pub struct Firmware {
    u_boot: PathBuf,
    edk2: PathBuf,
}

impl Firmware {
    /// Gets them from the distribution's packages, which are the same on every architecture.
    pub fn obtain() -> Result<Self> {
        let file = |package: &str, path: &str| {
            let file = candidate(package)?.unpacked()?.join(path);
            file.is_file().then_some(file).with_context(|| format!("The package {package} has no {path}"))
        };
        Ok(Self {
            u_boot: file("u-boot-qemu", "usr/lib/u-boot/qemu_arm64/u-boot.bin")?,
            edk2: file("qemu-efi-aarch64", "usr/share/qemu-efi-aarch64/QEMU_EFI.fd")?,
        })
    }

    /// Puts them into the host, under the names that the steps use.
    pub fn give(&self, host: &mut Host) {
        host.file("u-boot.bin", &self.u_boot).file("QEMU_EFI.fd", &self.edk2);
    }
}

/// Each to its prompt, where it is asked something and told to power off.
pub fn steps() -> Vec<Step> {
    let u_boot = conversation(
        "--firmware u-boot.bin --layout virt -m 256M",
        &[("Hit any key", "\\n"), ("=> ", "version\\n"), ("Debian", "poweroff\\n")],
    );
    let edk2 = conversation(
        "--firmware QEMU_EFI.fd --layout virt -m 256M -c 2",
        &[("any other key", "x"), ("Shell>", "\\rver\\r"), ("UEFI v2", "reset -s\\r")],
    );
    vec![
        talk("U-Boot: its prompt", u_boot, &["=> version", "gcc", "=> poweroff"]),
        talk("edk2: its shell", edk2, &["UEFI Interactive Shell", "Shell> ver", "Shell> reset -s"]),
    ]
}

/// A script that runs carpel and gives each answer when the text before it has appeared.
fn conversation(arguments: &str, answers: &[(&str, &str)]) -> String {
    let answers: Vec<_> = answers.iter().map(|(text, answer)| format!("answer '{text}' '{answer}'")).collect();
    TYPIST.replace("@ARGUMENTS@", arguments).replace("@ANSWERS@", &answers.join("\n"))
}

/// A step in which the guest says these texts and powers off.
fn talk(name: &str, script: String, says: &'static [&'static str]) -> Step {
    let check = move |output: &Output| {
        ended_with(output, 0)?;
        for text in says {
            ensure!(output.text.contains(text), "It did not say {text:?}");
        }
        Ok(())
    };
    Step { limit: LIMIT, ..step(name, script, Box::new(check)) }
}
