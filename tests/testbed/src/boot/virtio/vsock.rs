//! Sockets between guest and host, begun by either: random bytes pass both ways at once.

use anyhow::{Context as _, Result, ensure};

use super::{NOTHING, Part};
use crate::host::Output;

pub const PART: Part = Part {
    name: "vsock",
    modules: &["vmw_vsock_virtio_transport"],
    before: r"
head -c 3000000 /dev/urandom >to-guest
./relay listen unix:vm.sock_5000 <to-guest >from-guest &
listening=$!
",
    arguments: "--vsock cid=9,uds=vm.sock",
    guest: r#"
sum() { md5sum "$1" | cut -d' ' -f1; }
head -c 2000000 /dev/urandom >/to-host
relay connect vsock:2:5000 </to-host >/from-host
echo "guest: vsock-begun-by-guest $(sum /to-host) $(sum /from-host)"
relay listen vsock:4294967295:5001 </to-host >/from-host
echo "guest: vsock-begun-by-host $(sum /to-host) $(sum /from-host)"
"#,
    meanwhile: r#"
sum() { md5sum "$1" | cut -d' ' -f1; }
guest_says "listening at vsock"
wait $listening
echo "host: vsock-begun-by-guest $(sum from-guest) $(sum to-guest)"
{ echo "CONNECT 5001"; cat to-guest; } | ./relay connect unix:vm.sock >answer
{ read -r ok; cat; } <answer >from-guest
echo "host: vsock-begun-by-host $(sum from-guest) $(sum to-guest)"
echo "host: vsock-answer $ok"
"#,
    after: r#"
[ -e vm.sock ] || echo "host: vsock-removed"
"#,
    check,
    ..NOTHING
};

/// The sums that both have of what went each way.
fn check(output: &Output) -> Result<()> {
    let value = |key: &str| output.text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    for connection in ["vsock-begun-by-guest", "vsock-begun-by-host"] {
        let guest = value(&format!("guest: {connection}"))
            .with_context(|| format!("The guest says nothing of {connection}"))?;
        let host =
            value(&format!("host: {connection}")).with_context(|| format!("The host says nothing of {connection}"))?;
        ensure!(guest == host && guest.len() == 65, "{connection}: sums {guest:?} in the guest, {host:?} on the host");
    }
    ensure!(value("host: vsock-answer").is_some_and(|answer| answer.starts_with("OK ")), "The host got no OK");
    ensure!(output.text.contains("host: vsock-removed"), "The socket is still there");
    Ok(())
}
