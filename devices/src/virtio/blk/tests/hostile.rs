//! Requests that no honest driver makes.

use proptest::prelude::*;

use super::*;

/// Addresses: mostly guest memory, its edges, and none.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => BUFFERS..MEMORY,
        1 => MEMORY - 600..MEMORY + 600,
        1 => HIGH_MEMORY..HIGH_MEMORY + MEMORY,
        1 => any::<u64>(),
    ]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![3 => (0..64_u32).prop_map(|sectors| 512 * sectors), 3 => 0..2048_u32, 1 => any::<u32>()]
}

fn sector() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0..SECTORS + 2, 1 => any::<u64>(), 1 => any::<u64>().prop_map(|low| u64::MAX - low % 4096)]
}

/// A request: its type, its sector, and what follows its header.
fn request() -> impl Strategy<Value = (u32, u64, Vec<(u64, u32, bool)>)> {
    let kind =
        prop_oneof![8 => prop::sample::select(vec![IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES]), 1 => any::<u32>()];
    (kind, sector(), prop::collection::vec((address(), length(), any::<bool>()), 0..8))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Each is answered or breaks the device until a reset, and the image keeps its size.
    #[test]
    fn any_request_is_survived(keys in prop::sample::select(vec!["", ",engine=threads", ",ephemeral"]),
                               requests in prop::collection::vec(request(), 1..20)) {
        let mut machine = Machine::new(keys);
        for (kind, sector, buffers) in requests {
            put_header(&machine.guest, HEADER, kind, sector);
            let mut chain = vec![(HEADER, 16, 0)];
            let flags = |writable| if writable { WRITE } else { 0 };
            chain.extend(buffers.iter().map(|&(address, length, writable)| (address, length, flags(writable))));
            let last = chain.len() as u16 - 1;
            for (index, (address, length, flags)) in (0_u16..).zip(chain) {
                let next = if index < last { NEXT } else { 0 };
                machine.guest.descriptor(0, index, (address, length, flags | next, index + 1));
            }
            machine.guest.publish(0, 0);
            machine.guest.kick(0);
            machine.guest.wait(|guest| guest.poll_used(0).is_some() || guest.read(r::STATUS) & 64 != 0);
            // It may also have written into its own rings.
            machine.guest.start();
        }
        prop_assert_eq!(machine.image().len(), SECTORS as usize * SECTOR);
        prop_assert_eq!(machine.request(IN, 1, &[(DATA, 512, WRITE)]), OK);
    }
}
