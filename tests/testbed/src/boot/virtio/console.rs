//! The console device: `hvc0` both ways, and a port of its own.

use anyhow::{Result, ensure};

use super::Part;
use crate::guest::said;
use crate::host::Output;

pub const PART: Part = Part {
    name: "console",
    modules: &["virtio_console"],
    before: "mkfifo typed; exec 3<>typed",
    stdin: "&3",
    arguments: "--device console,name=org.example.log,file=port.log",
    guest: r#"
# What the guest types of is not for the serial port: it comes once this has printed something.
exec 4<>/dev/hvc0
echo "guest: hvc0 ready" >&4
read -r line <&4
echo "guest: hvc0_heard $line" >&4
exec 4>&-
port=$(dirname $(grep -l '^org.example.log$' /sys/class/virtio-ports/*/name))
echo "said to a port" >/dev/${port##*/}
echo "guest: consoles $(cut -d' ' -f1 /proc/consoles | tr '\n' ' ')"
"#,
    meanwhile: r#"
guest_says "guest: hvc0 ready"
echo "typed on the host" >&3
"#,
    after: r#"
echo "host: port $(cat port.log)"
"#,
    check,
};

/// What is printed on hvc0 is carpel's output, what is typed arrives there, and the kernel's messages stay on the serial port.
fn check(output: &Output) -> Result<()> {
    let heard: Vec<_> = said(&output.text, "hvc0_heard").collect();
    ensure!(heard == ["typed on the host"], "The guest read {heard:?} from hvc0");
    let consoles: Vec<_> = said(&output.text, "consoles").collect();
    ensure!(consoles.len() == 1 && !consoles[0].contains("hvc0"), "The kernel's consoles are {consoles:?}");
    ensure!(output.text.contains("host: port said to a port"), "The port's file does not hold what the guest said");
    Ok(())
}
