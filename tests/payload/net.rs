//! The network device between a guest and a real tap, in a network namespace of the test's own: its other end is the kernel's
//! network.

use std::env;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, recv, setsockopt, socket};
use nix::sys::time::TimeVal;

use crate::guest::{Outcome, Running, command, run};

/// Set in the namespace.
const INSIDE: &str = "CARPEL_TEST_NETWORK_NAMESPACE";
const GUEST: &str = "10.7.0.2:4242";
/// Longer than an answer takes on a busy machine whose KVM emulates instructions.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the test of this name once more, alone, in a network namespace; returns whether this is that run.
fn inside(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let flags = if is_root { "-n" } else { "-rn" };
    let mut again = Command::new("unshare");
    again.arg(flags).arg(env::current_exe().unwrap()).args([&format!("net::{test}"), "--exact"]).env(INSIDE, "");
    let output = again.output().expect("util-linux has unshare");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("1 passed"), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    false
}

fn shell(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

/// A guest that answers, once it is ready, and a socket to it.
fn start(net: &str, more: &[&str]) -> (Running, UdpSocket) {
    let mut guest =
        Running::start(command("net", &["--announce", "cmdline", "--timeout", "80s", "--net", net]).args(more));
    guest.wait_for("ready\n");
    shell("ip link set lo up; ip address add 10.7.0.1/24 dev tap7");
    let socket = UdpSocket::bind("10.7.0.1:0").unwrap();
    socket.connect(GUEST).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    (guest, socket)
}

fn datagram(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 13 + (at >> 8) + seed) as u8).collect()
}

#[track_caller]
fn echo(socket: &UdpSocket, length: usize, seed: usize) {
    let sent = datagram(length, seed);
    socket.send(&sent).unwrap();
    let mut got = vec![0; 0x1_0000];
    let count = socket.recv(&mut got).unwrap();
    assert!(got[..count] == sent, "{length} bytes came back as {count}");
}

fn end(guest: Running, socket: &UdpSocket) -> Outcome {
    socket.send(b"end").unwrap();
    guest.finish().expect_status(0)
}

#[test]
fn packets_of_all_sizes_pass_both_ways_over_a_tap_that_carpel_creates() {
    if !inside("packets_of_all_sizes_pass_both_ways_over_a_tap_that_carpel_creates") {
        return;
    }
    let (guest, socket) = start("tap=tap7,mac=02:00:00:00:00:07", &[]);
    for (seed, length) in [1, 18, 19, 100, 1000, 1472].into_iter().cycle().take(30).enumerate() {
        echo(&socket, length, seed);
    }
    let outcome = end(guest, &socket);
    assert_eq!(outcome.values("echoed").next().unwrap(), ["31"]);
    assert_eq!(outcome.values("mac").next().unwrap(), ["0x2", "0x0", "0x0", "0x0", "0x0", "0x7"]);
    assert_eq!(outcome.values("link").next().unwrap(), ["1"]);
    assert_eq!(outcome.values("mtu").next().unwrap(), ["1500"]);
    shell("! ip link show tap7 2>/dev/null");
}

#[test]
fn a_large_mtu_spreads_frames_over_buffers_and_the_host_cuts_segments() {
    if !inside("a_large_mtu_spreads_frames_over_buffers_and_the_host_cuts_segments") {
        return;
    }
    shell("ip tuntap add dev tap7 mode tap; ip link set tap7 up");
    let (guest, socket) = start("tap=tap7,mtu=9000", &["-a", "tso=1"]);
    for (seed, length) in [1, 2000, 2047, 4096, 8972].into_iter().cycle().take(15).enumerate() {
        echo(&socket, length, seed);
    }
    let segments = socket_for_segments();
    let outcome = end(guest, &socket);
    assert_eq!(outcome.values("mtu").next().unwrap(), ["9000"]);
    let mut payload = Vec::new();
    while payload.len() < 20_000 {
        let mut packet = vec![0; 0x1_0000];
        let count = recv(segments.as_raw_fd(), &mut packet, nix::sys::socket::MsgFlags::empty()).unwrap();
        payload.extend_from_slice(&packet[40..count]);
    }
    let expected: Vec<_> = (0..20_000_usize).map(|at| (at * 7 + (at >> 8)) as u8).collect();
    assert!(payload == expected);
}

/// Gets every TCP packet with its IP header.
fn socket_for_segments() -> std::os::fd::OwnedFd {
    let segments = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Tcp).unwrap();
    setsockopt(&segments, ReceiveTimeout, &TimeVal::new(PATIENCE.as_secs().cast_signed(), 0)).unwrap();
    segments
}

#[test]
fn after_a_flood_the_guest_still_answers() {
    if !inside("after_a_flood_the_guest_still_answers") {
        return;
    }
    let (guest, socket) = start("tap=tap7", &[]);
    // What the flood leaves in the queue is answered first, and a guest whose KVM emulates instructions takes its time for it.
    shell("ip link set tap7 txqueuelen 50");
    echo(&socket, 100, 0);
    let flood = datagram(1000, 1);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        // The kernel may have no room.
        let _ = socket.send(&flood);
    }
    // The kernel dropped what its queue had no room for, and may have dropped this as well: until it answers, ask again.
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let (asked, mut got) = (Instant::now(), [0; 2000]);
    loop {
        assert!(asked.elapsed() < PATIENCE, "The guest does not answer any more");
        let _ = socket.send(&datagram(77, 2));
        let mut answers = std::iter::from_fn(|| socket.recv(&mut got).ok());
        if answers.any(|length| length == 77) {
            break;
        }
    }
    end(guest, &socket);
}

#[test]
fn a_tap_that_is_down_is_told() {
    if !inside("a_tap_that_is_down_is_told") {
        return;
    }
    shell("ip tuntap add dev tap7 mode tap");
    let outcome = run("hello", &["--net", "tap=tap7"]).expect_status(0);
    let says = "The tap `tap7` is down: no frame passes before, as root, `ip link set tap7 up`\n";
    assert!(outcome.stderr.lines().count() == 1 && outcome.stderr.ends_with(says), "{outcome:#?}");
    shell("ip link set tap7 up");
    assert_eq!(run("hello", &["--net", "tap=tap7"]).expect_status(0).stderr, "");
    // One that carpel makes is up.
    assert_eq!(run("hello", &["--net", "tap=tap8"]).expect_status(0).stderr, "");
}

#[test]
fn a_tap_that_cannot_be_had_is_one_line_with_the_remedy() {
    if !inside("a_tap_that_cannot_be_had_is_one_line_with_the_remedy") {
        return;
    }
    let says = |net: &str, text: &str| {
        let outcome = run("hello", &["--net", net]).expect_status(2);
        assert!(outcome.stderr.lines().count() == 1 && outcome.stderr.contains(text), "{outcome:#?}");
    };
    shell(
        "ip tuntap add dev single mode tap; ip tuntap add dev several mode tap multi_queue; \
         ip tuntap add dev tun0 mode tun",
    );
    says("tap=lo", "`lo` is no tap for 1 queue(s)");
    says("tap=tun0", "`tun0` is no tap for 1 queue(s)");
    says(
        "tap=single,queues=2",
        "no tap for 2 queue(s): remove it, or make it by `ip tuntap add dev single mode tap multi_queue`",
    );
    says("tap=several", "`several` is no tap for 1 queue(s)");
    says("tap=sixteen-bytes-xx", "cannot be an interface's name");
    says("tap=tap7,mac=1", "no address of one interface");
    says("mtu=1500", "`tap=NAME` is missing");

    let (guest, socket) = start("tap=tap7", &[]);
    says("tap=tap7", "Another program uses the tap `tap7`");
    end(guest, &socket);

    let mut poor = Command::new("setpriv");
    let carpel = command("hello", &["--net", "tap=absent"]);
    poor.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(carpel.get_program()).args(carpel.get_args());
    let outcome = crate::guest::finish(poor.stdin(Stdio::null())).expect_status(2);
    let remedy = "`ip tuntap add dev absent mode tap user $USER && ip link set absent up`";
    assert!(outcome.stderr.contains(remedy), "{outcome:#?}");
}
