//! `wgmma`: right products with all layouts, and every hazard that it has, planted.

mod common;

use common::wgmma::{PLAIN, Spec, Tiles};
use common::{line_of, parse, replaced};
use tilewright_ptx_emu::{Class, FaultKind, Module};

const SEEDS: u64 = 50;

/// The line of the text that holds a mark.
fn line<'t>(text: &'t str, mark: &str) -> &'t str {
    text.lines().nth(line_of(text, mark) as usize - 1).unwrap()
}

/// The text without the instruction of a line.
fn without(text: &str, mark: &str) -> String {
    replaced(text, mark, "// nothing here")
}

/// The text with something in front of a line, on the same line.
fn before(text: &str, mark: &str, what: &str) -> String {
    replaced(text, mark, &format!("{what} {}", line(text, mark)))
}

fn swapped(text: &str, a: &str, b: &str) -> String {
    let (la, lb) = (line(text, a).to_string(), line(text, b).to_string());
    let moved = replaced(text, a, "// swapped");
    replaced(&replaced(&moved, b, &la), "// swapped", &lb)
}

/// Every seed finds one of the kinds, on a line that holds the mark that belongs to it.
fn found_in(spec: Spec, text: &str, wanted: &[(FaultKind, &str)]) {
    let module = parse(text);
    for seed in 0..SEEDS {
        let fault = spec.run(&module, seed).expect_err(&format!("{wanted:?}, seed {seed}, in\n{text}"));
        let at = text.lines().nth((fault.line as usize).max(1) - 1).unwrap();
        let hit = wanted.iter().any(|(kind, mark)| fault.kind == *kind && at.contains(mark));
        assert!(hit, "seed {seed}, want {wanted:?}: {fault}\n{at}");
    }
}

fn found(text: &str, kind: FaultKind, mark: &str) {
    found_in(PLAIN, text, &[(kind, mark)]);
}

#[test]
fn products_of_all_layouts() {
    let mut seed = 0;
    for n in [8, 16, 24, 64, 104, 256] {
        for row in [0, 32, 64, 128] {
            for (i, (ty, groups)) in [("f16", 1), ("bf16", 2)].into_iter().enumerate() {
                let tiles = [Tiles::Stored, Tiles::Copied, Tiles::Bulk][(n / 8 + row / 32 + i) % 3];
                let (left_shared, deep) = ((n / 8 + i) % 2 == 0 && tiles != Tiles::Bulk, n % 16 == 0);
                let spec = Spec { n, ty, row, groups, left_shared, tiles, deep };
                let text = spec.text();
                common::assemble("wgmma", &text, &["sm_90a"]);
                let module = parse(&text);
                for _ in 0..if n > 100 { 3 } else { 10 } {
                    let stats = spec.run(&module, seed).unwrap_or_else(|f| panic!("{spec:?}, seed {seed}: {f}"));
                    let steps = Spec::TILES * if row == 0 { 2 } else { row / 32 };
                    assert_eq!(stats.instructions[&Class::Matrix], (4 * groups * steps) as u64);
                    seed += 1;
                }
            }
        }
    }
}

#[test]
fn correct_kernels_are_silent() {
    for tiles in [Tiles::Stored, Tiles::Copied, Tiles::Bulk] {
        for deep in [false, true] {
            let spec = Spec { tiles, deep, groups: 2, left_shared: deep && tiles != Tiles::Bulk, ..PLAIN };
            let module = parse(&spec.text());
            for seed in 0..SEEDS {
                spec.run(&module, seed).unwrap_or_else(|f| panic!("{spec:?}, seed {seed}: {f}"));
            }
        }
    }
}

#[test]
fn registers_under_way() {
    use FaultKind::*;
    let text = PLAIN.text();
    // The last wait is gone: a sum is stored that may not be there; or nobody ever waits.
    found(&without(&text, "// wait 3"), MissingWait, "// result 0");
    let mut unused = without(&text, "// wait 3");
    for i in 0..PLAIN.n / 4 {
        unused = without(&unused, &format!("// result {}", 2 * i));
    }
    found(&unused, MissingWait, "// end");
    // A group that was not committed is not waited for.
    found(&without(&text, "// commit 3"), MissingWait, "// result 0");
    // The next fragments, or the next tile of B, while the product still reads the ones before.
    let late = without(&text, "// wait 1");
    found_in(PLAIN, &late, &[(MissingWait, "// left 2 0 0"), (Race, "// copy 3 %b 0")]);
    // A sum is written, and one is read, between.
    found(&before(&text, "// wait 1", "mov.b32 %d5, %x;"), MissingWait, "// wait 1");
    found(&before(&text, "// commit 2", "add.f32 %d0, %d7, %d7;"), MissingWait, "// commit 2");
    // Another shape, over registers of the first.
    let other = "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%d0, %d1, %d2, %d3}, {%l0, %l1, %l2, %l3}, %bdesc, %yes, 1, 1, 0;";
    found(&before(&text, "// commit 1", other), MissingWait, "// commit 1");
    // A sum as a factor.
    let factor = "{ .reg .f32 %e<4>; wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%e0, %e1, %e2, %e3}, {%l0, %l1, %l2, %l3}, \
        %bdesc, %no, 1, 1, 0; mov.b32 %l3, %e1; }";
    found(&before(&text, "// commit 1", factor), MissingWait, "// commit 1");
}

#[test]
fn registers_without_a_fence() {
    use FaultKind::*;
    let text = PLAIN.text();
    for tile in 0..Spec::TILES {
        found(&without(&text, &format!("// fence {tile}")), MissingFence, &format!("// product {tile} 0"));
    }
    // Written, or a sum read, behind the fence.
    found(&before(&text, "// product 1 0", "mov.b32 %l2, %x;"), MissingFence, "// product 1 0");
    found(&before(&text, "// product 0 0", "mov.b32 %d3, %x;"), MissingFence, "// product 0 0");
    found(&before(&text, "// product 1 0", "add.f32 %d7, %d7, %d7;"), MissingFence, "// product 1 0");
    let read = "st.global.f32 [%to], %d1;";
    found(&before(&text, "// product 1 0", read), MissingFence, "// product 1 0");
    // Before it, all of that is right.
    let fine = parse(&before(&text, "// fence 1", read));
    (0..SEEDS).for_each(|seed| drop(PLAIN.run(&fine, seed).unwrap()));
    // Sums that start from nothing.
    let text = text.replace("%bdesc, %no", "%bdesc, %yes");
    found(&text, Uninitialised, "// product 0 0");
}

#[test]
fn shared_memory_and_its_proxy() {
    use FaultKind::*;
    for tiles in [Tiles::Stored, Tiles::Copied] {
        for left_shared in [false, true] {
            let spec = Spec { tiles, left_shared, ..PLAIN };
            let text = spec.text();
            for tile in [0, 2] {
                let (visible, there) = (format!("// visible {tile}"), format!("// there {tile}"));
                let product = format!("// product {tile} 0");
                // Gone, behind the barrier, by one lane only, of global memory only.
                found_in(spec, &without(&text, &visible), &[(MissingFence, &product)]);
                found_in(spec, &swapped(&text, &visible, &there), &[(MissingFence, &product)]);
                let some = replaced(&text, &visible, "setp.eq.u32 %in, %lane, 3; @%in fence.proxy.async.shared::cta;");
                found_in(spec, &some, &[(MissingFence, &product)]);
                let global = replaced(&text, &visible, "fence.proxy.async.global;");
                found_in(spec, &global, &[(MissingFence, &product)]);
            }
        }
    }
    // The copies are waited for after the fence, or not at all.
    let text = PLAIN.text();
    found(&swapped(&text, "// copied 2", "// visible 2"), MissingFence, "// product 2 0");
    found(&without(&text, "// copied 1"), MissingWait, "// product 1 0");
    // Without the barrier somebody else's part is not there, or still used.
    let copies: Vec<String> = (0..3).map(|i| format!("// copy 2 %b {i}")).collect();
    let mut wanted = vec![(Race, "// product 1 0"), (MissingWait, "// product 1 0"), (Uninitialised, "// product 1 0")];
    wanted.push((MissingFence, "// product 1 0"));
    wanted.extend(copies.iter().map(|c| (Race, c.as_str())));
    found_in(PLAIN, &without(&text, "// there 1"), &wanted);
}

#[test]
fn shared_memory_under_way() {
    use FaultKind::*;
    // The wait comes one tile late: copies go where the product reads.
    let deep = Spec { deep: true, ..PLAIN };
    let text = replaced(&deep.text(), "// wait 1", "wgmma.wait_group.sync.aligned 2;");
    found_in(deep, &text, &[(Race, "// copy 3 %b 0")]);
    // By the time of the copy, the warp itself has waited, but others may not have: no barrier lies between.
    let again = before(&PLAIN.text(), "// fence 3", "st.shared.b32 [%tiles+0], %x;");
    found(&again, Race, "// fence 3");
    let again = before(&PLAIN.text(), "// result 0", "mad.lo.u32 %o, %t, 4, %tiles; st.shared.b32 [%o+2048], %x;");
    found(&again, Race, "// result 0");
    // With one, all is well.
    let fine =
        before(&PLAIN.text(), "// result 0", "bar.sync 0; mad.lo.u32 %o, %t, 4, %tiles; st.shared.b32 [%o+2048], %x;");
    let fine = parse(&fine);
    (0..SEEDS).for_each(|seed| drop(PLAIN.run(&fine, seed).unwrap()));
    // The same with bulk copies, and one that nobody waits for.
    let bulk = Spec { tiles: Tiles::Bulk, deep: true, ..PLAIN };
    let text = bulk.text();
    let late = replaced(&text, "// wait 1", "wgmma.wait_group.sync.aligned 2;");
    found_in(bulk, &late, &[(Race, "// copy 3 %b")]);
    let unwaited = without(&without(&text, "// try 2"), "// copied 2");
    found_in(bulk, &unwaited, &[(MissingWait, "// product 2 0")]);
    // Bytes that nobody wrote.
    let half = PLAIN.text().replace("setp.lt.u32 %in, %c, 128;", "setp.lt.u32 %in, %c, 127;");
    found(&half, Uninitialised, "// product 0 3");
}

#[test]
fn descriptors() {
    use FaultKind::*;
    let with = |spec: Spec, from: &str, to: &str| spec.text().replace(from, to);
    let bits = format!("or.b64 %bdesc, %bdesc, {:#x};", PLAIN.descriptor(PLAIN.n));
    let or = |more: u64| format!("or.b64 %bdesc, %bdesc, {:#x};", PLAIN.descriptor(PLAIN.n) | more);
    found(&with(PLAIN, &bits, &or(1 << 49)), Descriptor, "// product 0 0");
    found(&with(PLAIN, &bits, &or(1 << 46)), Descriptor, "// product 0 0");
    // Not at the start of a pattern; over the end of a row; shared memory that is not aligned enough; outside.
    found(
        &with(PLAIN, "%bdesc, %no", "%bdesc, %no").replace("add.u32 %x, %tiles, 0;", "add.u32 %x, %tiles, 512;"),
        Descriptor,
        "// product 0 0",
    );
    found(&with(PLAIN, "add.u32 %x, %tiles, 96;", "add.u32 %x, %tiles, 112;"), Descriptor, "// product 0 3");
    found(&with(PLAIN, ".align 1024", ".align 128"), Descriptor, "// product 0 0");
    let outside = with(PLAIN, "add.u32 %x, %tiles, 32;", "add.u32 %x, %tiles, 10272;");
    found(&outside, OutOfBounds, "// product 0 1");
    let plain = Spec { row: 0, ..PLAIN };
    let fine = parse(&with(plain, ".align 1024", ".align 16"));
    (0..SEEDS).for_each(|seed| drop(plain.run(&fine, seed).unwrap()));
}

#[test]
fn warp_groups() {
    use FaultKind::*;
    let text = PLAIN.text();
    // Lanes, or a warp, that do not come; warps that come to another instruction.
    found(&before(&text, "// product 2 1", "setp.ne.u32 %in, %lane, 7; @%in"), Collective, "// product 2 1");
    for mark in ["// fence 1", "// commit 1", "// wait 1"] {
        found(&before(&text, mark, "setp.ne.u32 %in, %lane, 7; @%in"), Collective, mark);
    }
    found(&before(&text, "// product 2 0", "setp.ge.u32 %in, %t, 96; @%in"), Collective, "// product 2");
    let leave = "setp.ge.u32 %in, %t, 96; @%in exit;";
    found(&before(&text, "// fence 3", leave), Collective, "// product 3 0");
    let jump = "setp.ge.u32 %in, %t, 96; @%in bra L;";
    let jumps = before(&before(&text, "// product 3 1", jump), "// product 3 2", "L:");
    found(&jumps, Collective, "// product 3");
    // What must be the same in all threads of the group.
    let lane = before(&text, "// product 1 2", "cvt.u64.u32 %g, %lane; and.b64 %g, %g, 2; add.s64 %bdesc, %bdesc, %g;");
    found(&lane, Collective, "// product 1 2");
    let warp = before(&text, "// product 1 2", "shr.u32 %x, %t, 6; cvt.u64.u32 %g, %x; add.s64 %bdesc, %bdesc, %g;");
    found(&warp, Collective, "// product 1 2");
    let pred = before(&text, "// product 1 2", "setp.lt.u32 %yes, %t, 64;");
    found(&pred, Collective, "// product 1 2");
}

#[test]
fn scales() {
    let text = PLAIN.text();
    let twice = text.replace(", 1, 1, 0;", ", -1, -1, 0;").replace("%bdesc, %no", "%bdesc, !%yes");
    // Subtracted, and turned around at the end.
    let mut once = text.replace(", 1, 1, 0;", ", 1, -1, 0;").replace("%bdesc, %no", "%bdesc, 0");
    for r in (0..PLAIN.n / 2).step_by(2) {
        let turn = format!("neg.f32 %d{r}, %d{r}; neg.f32 %d{}, %d{};", r + 1, r + 1);
        once = before(&once, &format!("// result {r}"), &turn);
    }
    for text in [twice, once] {
        common::assemble("scales", &text, &["sm_90a"]);
        let module = parse(&text);
        (0..SEEDS).for_each(|seed| drop(PLAIN.run(&module, seed).unwrap()));
    }
}

#[test]
fn refused() {
    let text = PLAIN.text();
    let changes = [
        ("m64n16k16", "m64n20k16", "m64n8k16 to m64n256k16"),
        (".target sm_90a", ".target sm_90", "wgmma needs .target sm_90a"),
        (".f32.f16.f16", ".f16.f16.f16", "wgmma of f16 and f16 into f16"),
        (", 1, 1, 0;", ", 1, 2, 0;", "by 1 or -1"),
        (", 1, 1, 0;", ", 1, 1, 1;", "K-major"),
        ("{%d0, %d1,", "{%d0, %d0,", "twice"),
        ("wgmma.fence.sync.aligned", "wgmma.fence.sync", "wgmma is .sync.aligned"),
    ];
    for (from, to, message) in changes {
        let e = Module::parse(&text.replace(from, to)).expect_err(to);
        assert!(e.message.contains(message), "{e}");
    }
}

#[test]
fn part_of_a_warp_group() {
    // The second warp group has two warps.
    let text = PLAIN.text().replace(".maxntid 128", ".maxntid 192");
    let module = parse(&text);
    let mut device = tilewright_ptx_emu::Device::new(tilewright_ptx_emu::Config::default());
    let p = device.alloc("all", 1 << 20);
    device.write(p, &[0x3c; 1 << 20]).unwrap();
    let args = [p, p.offset(1 << 18), p.offset(1 << 19)].map(tilewright_ptx_emu::Arg::Ptr);
    for seed in 0..SEEDS {
        let block = [192, 1, 1];
        let run = device.launch(&module, "product", [1; 3], block, PLAIN.shared(), &args, &common::seeded(seed));
        let fault = run.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Collective, "seed {seed}: {fault}");
        assert!(fault.message.contains("the CTA has 192"), "{fault}");
    }
}
