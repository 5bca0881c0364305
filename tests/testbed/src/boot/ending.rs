//! The ways in which a run ends, each with its exit status.

use anyhow::ensure;

use super::{APPEND, carpel, ended_with, step};
use crate::host::{Output, Step};

/// A run and how it must end.
struct Ending {
    name: &'static str,
    /// Arguments of `carpel run`, without the kernel's console.
    arguments: &'static str,
    /// Kernel parameters.
    append: &'static str,
    status: i32,
    /// What must stand in the output.
    says: &'static str,
}

const ENDINGS: [Ending; 9] = [
    Ending {
        name: "a CI boot test that passes",
        arguments: "-k bzImage -i guest.cpio --until 'login:|# ' --timeout 60s",
        append: "finish=shell",
        status: 0,
        says: "guest: up",
    },
    Ending {
        name: "a CI boot test of a kernel that panics",
        arguments: "-k bzImage -i guest.cpio --until 'login:|# ' --timeout 60s",
        append: "rdinit=/nonexistent",
        status: 120,
        says: "Kernel panic - not syncing",
    },
    Ending {
        name: "reboot",
        arguments: "-k bzImage -i guest.cpio -c 4",
        append: "finish=reboot",
        status: 0,
        says: "guest: up",
    },
    Ending {
        name: "reboot by a triple fault",
        arguments: "-k bzImage -i guest.cpio",
        append: "finish=reboot reboot=t",
        status: 0,
        says: "reboot: Restarting system",
    },
    Ending {
        name: "halt",
        arguments: "-k bzImage -i guest.cpio -c 4",
        append: "finish=halt",
        status: 122,
        says: "guest: up",
    },
    Ending {
        name: "--timeout",
        arguments: "-k tiny -i guest.cpio --timeout 20s",
        append: "finish=wait",
        status: 124,
        says: "Linux version",
    },
    Ending {
        name: "--fail-on",
        arguments: "-k tiny -i guest.cpio --fail-on 'guest: up' --until 'never said'",
        append: "finish=wait",
        status: 123,
        says: "guest: up",
    },
    Ending {
        name: "irqchip mode full, stock kernel",
        arguments: "-k bzImage -i guest.cpio -c 4 --device irqchip,mode=full",
        append: "finish=poweroff",
        status: 0,
        says: "guest: cpus 4",
    },
    Ending {
        name: "irqchip mode full, tiny kernel, crosvm",
        arguments: "-k tiny -i guest.cpio -c 2 --layout crosvm --device irqchip,mode=full",
        append: "finish=reboot",
        status: 0,
        says: "guest: cpus 2",
    },
];

/// All endings, and that by a signal.
pub fn steps() -> Vec<Step> {
    ENDINGS.iter().map(Ending::step).chain([terminated()]).collect()
}

impl Ending {
    fn step(&'static self) -> Step {
        let Self { name, arguments, append, status, says } = *self;
        let script = carpel(&format!("{arguments} -a '{APPEND} {append}'"));
        let check = move |output: &Output| {
            ended_with(output, status)?;
            ensure!(output.text.contains(says), "Its output does not contain {says:?}");
            Ok(())
        };
        step(name, script, Box::new(check))
    }
}

/// SIGTERM while the guest runs.
fn terminated() -> Step {
    let script = format!(
        "./carpel run -k tiny -i guest.cpio -a '{APPEND} finish=wait' >out 2>&1 &\n\
         carpel=$!\n\
         while ! grep -q 'guest: up' out; do kill -0 $carpel || break; sleep 0.2; done\n\
         kill -TERM $carpel\n\
         wait $carpel\n\
         status=$?\n\
         cat out\n\
         exit $status\n"
    );
    step("SIGTERM", script, Box::new(|output| ended_with(output, 143)))
}
