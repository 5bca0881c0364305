//! The network device: TCP both ways over a tap that is in another network namespace than carpel.

use anyhow::{Context as _, Result, ensure};

use super::{NOTHING, Part};
use crate::guest::said;
use crate::host::Output;

/// Bytes of the largest packet, which carpel sets on both sides, with its Ethernet header.
const LARGEST: u64 = 1400 + 14;

pub const PART: Part = Part {
    name: "net",
    modules: &["virtio_net"],
    arguments: "--net tap=tap0,mac=02:00:00:00:00:42,mtu=1400,queues=2 -c 2",
    guest: r#"
sys=/sys/class/net/eth0
ip link set lo up
ip address add 10.8.0.2/24 dev eth0
ip link set eth0 up
mkdir /srv
head -c 1048576 /dev/urandom > /srv/sent
httpd -p 80 -h /srv
echo "guest: net_mac $(cat $sys/address)"
echo "guest: net_mtu $(cat $sys/mtu)"
echo "guest: net_queues $(ls -d $sys/queues/rx-* | wc -l) $(ls -d $sys/queues/tx-* | wc -l)"
echo "guest: net_ready"
fetch() {
    tries=0
    until wget -q -O "$2" "http://10.8.0.1/$1" || [ $tries = 100 ]; do
        tries=$((tries + 1))
        sleep 0.2
    done
}
fetch sent /got
echo "guest: net_got $(md5sum < /got)"
echo "guest: net_sent $(md5sum < /srv/sent)"
echo "guest: net_received $(cat $sys/statistics/rx_bytes) $(cat $sys/statistics/rx_packets)"
fetch done /done
"#,
    meanwhile: r#"
guest_says net_ready
unshare -n sleep 600 &
peer=$!
while [ "$(readlink /proc/$peer/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
ip link set tap0 netns $peer
in_peer() { nsenter -t $peer -n "$@"; }
in_peer ip link set lo up
in_peer ip address add 10.8.0.1/24 dev tap0
in_peer ip link set tap0 up
mkdir -p srv
head -c 1048576 /dev/urandom > srv/sent
in_peer httpd -p 80 -h srv
in_peer ping -c 3 -w 10 10.8.0.2 >/dev/null && echo 'host: net_ping answered'
guest_says net_received
received() { in_peer sed -n 's/^ *tap0: *\([0-9]*\) *\([0-9]*\) .*/\1 \2/p' /proc/net/dev; }
before=$(received)
in_peer wget -q -O got http://10.8.0.2/sent
set -- $before $(received)
echo "host: net_received $(($3 - $1)) $(($4 - $2))"
echo "host: net_got $(md5sum < got)"
echo "host: net_sent $(md5sum < srv/sent)"
touch srv/done
"#,
    check,
    ..NOTHING
};

/// What each sent is what the other got, in pieces larger than a packet, and the guest has the queues and the MTU that were asked for.
fn check(output: &Output) -> Result<()> {
    let guest = |key| said(&output.text, key).next().with_context(|| format!("The guest did not say its {key}"));
    let host = |key| {
        let line =
            output.text.lines().find_map(|line| line.strip_prefix("host: ")?.strip_prefix(key)?.strip_prefix(' '));
        line.with_context(|| format!("The host did not say its {key}"))
    };
    ensure!(guest("net_mac")? == "02:00:00:00:00:42", "The MAC address is {}", guest("net_mac")?);
    ensure!(guest("net_mtu")? == "1400", "The MTU is {}", guest("net_mtu")?);
    ensure!(guest("net_queues")? == "2 2", "The queues are {}", guest("net_queues")?);
    host("net_ping")?;
    ensure!(guest("net_got")? == host("net_sent")?, "What the guest got is not what the host sent");
    ensure!(host("net_got")? == guest("net_sent")?, "What the host got is not what the guest sent");
    for (who, received) in [("guest", guest("net_received")?), ("host", host("net_received")?)] {
        let (bytes, frames) = received.split_once(' ').context("There are two numbers")?;
        let mean = bytes.parse::<u64>()? / frames.parse::<u64>()?.max(1);
        ensure!(mean > LARGEST, "The {who} got {bytes} bytes in {frames} frames: segments came one by one");
    }
    Ok(())
}
