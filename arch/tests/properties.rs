//! What holds for every map, whatever the configuration.

use carpel_arch::map::PAGE_SIZE;
use carpel_arch::x86_64::maps::e820;
use carpel_arch::{
    Arch, Boot, Extent, Gic, Inputs, KernelExtent, LAYOUTS, Layout, MapError, MemoryMap, RowName, ShmRequest, resolve,
};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Sizes and addresses that occur, with those at the edges of maps among them.
fn plausible() -> BoxedStrategy<u64> {
    let edges = [0, MIB, 2 * MIB, 2 * GIB, 0xC000_0000, 0xD000_0000, 4 * GIB, 64 * GIB, 1 << 40, 1 << 46];
    prop_oneof![
        (proptest::sample::select(edges.to_vec()), -2..=2_i64)
            .prop_map(|(edge, pages)| edge.saturating_add_signed(pages * PAGE_SIZE.cast_signed())),
        0..200 * MIB,
        (0..100 * GIB / PAGE_SIZE).prop_map(|pages| pages * PAGE_SIZE),
    ]
    .boxed()
}

/// Any number, mostly plausible ones.
fn hostile() -> BoxedStrategy<u64> {
    prop_oneof![
        6 => plausible(),
        1 => any::<u64>(),
        1 => (0..0x1_0000_u64).prop_map(|below| u64::MAX - below),
    ]
    .boxed()
}

fn kernel(number: fn() -> BoxedStrategy<u64>) -> impl Strategy<Value = Option<KernelExtent>> {
    let bzimage =
        (number(), number(), number(), number()).prop_map(|(load_size, pref_address, alignment, init_size)| {
            KernelExtent::BzImage { load_size, pref_address, alignment, init_size }
        });
    prop_oneof![
        Just(None),
        bzimage.prop_map(Some),
        (number(), number())
            .prop_map(|(text_offset, image_size)| Some(KernelExtent::Image { text_offset, image_size })),
        number().prop_map(|size| Some(KernelExtent::Flat { size })),
        (number(), number()).prop_map(|(start, end)| Some(KernelExtent::Fixed { start, end })),
        // As kernels are.
        (1..60 * MIB).prop_map(|size| Some(KernelExtent::BzImage {
            load_size: size / 4,
            pref_address: 16 * MIB,
            alignment: 2 * MIB,
            init_size: size,
        })),
        (1..60 * MIB).prop_map(|image_size| Some(KernelExtent::Image { text_offset: 2 * MIB, image_size })),
        (1..200_u64, 1..60 * MIB).prop_map(|(start, size)| {
            let start = 0x8000_0000 + start * MIB;
            Some(KernelExtent::Fixed { start, end: start + size })
        }),
    ]
}

/// Up to three regions of shared memory, mostly of whole pages.
fn shm(number: fn() -> BoxedStrategy<u64>) -> impl Strategy<Value = Vec<ShmRequest>> {
    let size = prop_oneof![1 => number(), 7 => number().prop_map(|size| size / PAGE_SIZE * PAGE_SIZE)];
    proptest::collection::vec(size, 0..=3).prop_map(|sizes| {
        let request = |(index, size)| ShmRequest { name: format!("shm{index}"), size };
        sizes.into_iter().enumerate().map(request).collect()
    })
}

/// Configurations made of such numbers.
fn configuration(number: fn() -> BoxedStrategy<u64>) -> impl Strategy<Value = (&'static Layout, Inputs)> {
    let boot = proptest::sample::select(vec![Boot::Linux, Boot::Pvh, Boot::Multiboot, Boot::Firmware]);
    let gic = proptest::sample::select(vec![Gic::V2, Gic::V3]);
    let phys_bits = prop_oneof![4 => 32..=52_u8, 8 => Just(46), 1 => any::<u8>()];
    let vcpus = prop_oneof![16 => 1..=8_u32, 1 => 0..600_u32, 1 => any::<u32>()];
    let initrd_limit = prop_oneof![Just(u64::MAX), Just(0x8000_0000), number()];
    let optional = move || prop_oneof![Just(0), number()];
    let sizes = (number(), optional(), initrd_limit, optional(), shm(number));
    (proptest::sample::select(LAYOUTS.to_vec()), boot, gic, phys_bits, vcpus, kernel(number), sizes).prop_map(
        |(layout, boot, gic, phys_bits, vcpus, kernel, (mem, initrd, initrd_limit, firmware, shm))| {
            (layout, Inputs { mem, vcpus, phys_bits, boot, kernel, initrd, initrd_limit, firmware, shm, gic })
        },
    )
}

/// Configurations that resolve, whichever memory that takes.
fn resolved() -> impl Strategy<Value = (&'static Layout, Inputs, MemoryMap)> {
    configuration(plausible).prop_filter_map("does not resolve", |(layout, inputs)| {
        let inputs = match resolve(layout, &inputs) {
            Err(MapError::TooSmall { least, .. }) => Inputs { mem: least, ..inputs },
            _ => inputs,
        };
        let map = resolve(layout, &inputs).ok()?;
        Some((layout, inputs, map))
    })
}

fn sorted_and_disjoint(extents: &[Extent]) -> bool {
    extents.iter().all(|extent| extent.start < extent.end)
        && extents.windows(2).all(|pair| pair[0].end <= pair[1].start)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        max_local_rejects: 100_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn regions_and_claims_are_sorted_disjoint_and_nested((_, inputs, map) in resolved()) {
        prop_assert!(sorted_and_disjoint(&map.regions) && sorted_and_disjoint(&map.claims), "{map}");
        for claim in &map.claims {
            let holders = map.regions.iter().filter(|region| region.contains(claim)).count();
            prop_assert_eq!(holders, 1, "{}", claim);
        }
        let limit = 1 << inputs.phys_bits;
        prop_assert!(map.regions.iter().all(|region| region.end <= limit), "{map}");
    }

    #[test]
    fn ram_adds_up_and_holds_what_is_loaded((_, inputs, map) in resolved()) {
        prop_assert_eq!(map.ram().map(Extent::size).sum::<u64>(), inputs.mem);
        let slots = map.slots();
        prop_assert_eq!(slots.iter().map(|slot| slot.end - slot.start).sum::<u64>(), inputs.mem);
        prop_assert!(slots.windows(2).all(|pair| pair[0].end < pair[1].start));
        let shm: Vec<_> = map.shm().map(|region| (region.label(), region.size())).collect();
        let asked: Vec<_> = inputs.shm.iter().map(|request| (request.name.as_str(), request.size)).collect();
        prop_assert_eq!(shm, asked);
        let last_ram = map.ram().last().expect("there is RAM").end;
        prop_assert!(map.shm().all(|region| region.start >= last_ram && region.start.is_multiple_of(GIB)), "{map}");
        let carve_outs = [
            RowName::IoApic,
            RowName::Hpet,
            RowName::Lapic,
            RowName::IdentityMap,
            RowName::Tss,
            RowName::FirmwareImage,
        ];
        for claim in map.claims.iter().filter(|claim| !carve_outs.contains(&claim.name)) {
            prop_assert!(map.ram().any(|ram| ram.contains(claim)), "{}", claim);
        }
    }

    #[test]
    fn the_initrd_is_above_the_running_kernel((_, inputs, map) in resolved()) {
        let run_end = map.claim(RowName::Kernel).map_or(0, |kernel| kernel.end);
        prop_assert_eq!(map.claim(RowName::Kernel).is_some(), inputs.kernel.is_some());
        prop_assert_eq!(map.claim(RowName::Initrd).map_or(0, Extent::size), inputs.initrd);
        if let Some(initrd) = map.claim(RowName::Initrd) {
            prop_assert!(initrd.start >= run_end && initrd.end <= inputs.initrd_limit, "{map}");
            prop_assert!(initrd.start.is_multiple_of(PAGE_SIZE), "{map}");
            let first_ram = map.ram().next().expect("there is RAM");
            prop_assert!(first_ram.contains(initrd), "{map}");
        }
    }

    #[test]
    fn windows_stay_clear_of_claims((layout, _, map) in resolved()) {
        let region = map.region(layout.window_region).expect("each layout has room for devices");
        let mut windows = map.windows(layout).expect("the region is there").take(1000).peekable();
        prop_assert!(windows.peek().is_some());
        for window in windows {
            prop_assert!(region.start <= window.start && window.end <= region.end);
            prop_assert!(window.start.is_multiple_of(layout.window_size));
            prop_assert!(window.end - window.start == layout.window_size);
            prop_assert!(map.claims.iter().all(|claim| claim.end <= window.start || window.end <= claim.start));
        }
    }

    #[test]
    fn e820_tells_of_ram_only((layout, inputs, map) in resolved()) {
        if layout.arch != Arch::X86_64 {
            return Ok(());
        }
        let entries = e820(&map);
        prop_assert!(entries.windows(2).all(|pair| pair[0].end <= pair[1].start), "{entries:?}");
        for entry in &entries {
            prop_assert!(entry.start < entry.end);
            prop_assert!(map.ram().any(|ram| ram.start <= entry.start && entry.end <= ram.end));
            prop_assert!(!entry.usable || entry.end <= 0x9_FC00 || entry.start >= 0x10_0000);
        }
        let usable: u64 = entries.iter().filter(|entry| entry.usable).map(|entry| entry.end - entry.start).sum();
        prop_assert_eq!(usable, inputs.mem - inputs.mem.min(0x10_0000).saturating_sub(0x9_FC00));
    }

    /// No panic and no overflow; and where memory is what is missing, the named amount works and less does not.
    #[test]
    fn the_least_memory_is_exact((layout, inputs) in configuration(hostile)) {
        if let Err(MapError::TooSmall { mem, least, .. }) = resolve(layout, &inputs) {
            let with = |mem| resolve(layout, &Inputs { mem, ..inputs.clone() });
            prop_assert!(least > mem && least.is_multiple_of(MIB));
            prop_assert!(with(least).is_ok());
            prop_assert!(with(least - MIB).is_err());
            let shown = resolve(layout, &inputs).expect_err("as before").to_string();
            prop_assert!(shown.ends_with(&format!("the least --mem that works is {}M", least / MIB)), "{shown}");
        }
    }
}
