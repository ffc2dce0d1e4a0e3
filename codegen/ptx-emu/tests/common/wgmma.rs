//! Kernels of `wgmma`, written out for any shape, and their runs against plain sums.

use super::{Random, seeded};
use half::{bf16, f16};
use std::fmt::Write;
use tilewright_ptx_emu::{Arg, Config, Device, Fault, Module, Stats};

/// How tiles come to shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiles {
    /// `st.shared`.
    Stored,
    /// `cp.async`.
    Copied,
    /// One bulk copy and an mbarrier for each: a tile lies in global memory as it is wanted.
    Bulk,
}

/// `D[64 groups][n]` f32 = `A[64 groups][k]` times `B[n][k]`, with `k` in [`Spec::TILES`] tiles.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    pub n: usize,
    pub ty: &'static str,
    /// Bytes of a row of the swizzled pattern: 128, 64, 32; or 0.
    pub row: usize,
    pub groups: usize,
    /// A comes from shared memory, too.
    pub left_shared: bool,
    pub tiles: Tiles,
    /// One product stays under way while the next one starts.
    pub deep: bool,
}

/// What most tests change a line of.
pub const PLAIN: Spec =
    Spec { n: 16, ty: "f16", row: 128, groups: 1, left_shared: false, tiles: Tiles::Copied, deep: false };

impl Spec {
    pub const TILES: usize = 4;

    /// Elements of k in a tile.
    fn tile(&self) -> usize {
        if self.row == 0 { 32 } else { self.row / 2 }
    }

    fn k(&self) -> usize {
        self.tile() * Self::TILES
    }

    fn rows(&self) -> usize {
        64 * self.groups
    }

    fn threads(&self) -> usize {
        128 * self.groups
    }

    fn stages(&self) -> usize {
        if self.deep { 3 } else { 2 }
    }

    /// Bytes of a stage: first B, then A if it is there.
    fn stage(&self) -> usize {
        2 * self.tile() * (self.n + if self.left_shared { self.rows() } else { 0 })
    }

    pub fn shared(&self) -> usize {
        self.stage() * self.stages()
    }

    /// A descriptor but for its start, of a matrix with so many rows.
    pub fn descriptor(&self, rows: usize) -> u64 {
        let mode = [(0, 0u64), (128, 1), (64, 2), (32, 3)].iter().find(|m| m.0 == self.row).expect("a swizzle").1;
        let (leading, stride) = if self.row == 0 { (rows * 16, 128) } else { (16, 8 * self.row) };
        (leading as u64 >> 4) << 16 | (stride as u64 >> 4) << 32 | mode << 62
    }

    /// Every thread copies 16 bytes of a tile at a time, to where the descriptor will look for them.
    fn copy(&self, out: &mut String, tile: usize, from: &str, rows: usize, at: usize) {
        let (per, threads) = (self.tile() / 8, self.threads());
        for i in 0..(rows * per).div_ceil(threads) {
            let _ = write!(
                out,
                "add.u32 %c, %t, {};\nsetp.lt.u32 %in, %c, {};\nshr.u32 %n, %c, {};\nand.b32 %j, %c, {};\n",
                i * threads,
                rows * per,
                per.trailing_zeros(),
                per - 1
            );
            if self.row == 0 {
                let _ = write!(out, "shl.b32 %o, %n, 4;\nmad.lo.u32 %o, %j, {}, %o;\n", rows * 16);
            } else {
                let mask = self.row - 16;
                let _ = write!(
                    out,
                    "shl.b32 %o, %c, 4;\nshr.u32 %x, %o, 3;\nand.b32 %x, %x, {mask};\nxor.b32 %o, %o, %x;\n"
                );
            }
            let _ = write!(
                out,
                "add.u32 %o, %o, %tiles;\nmul.wide.u32 %g, %n, {};\nmul.wide.u32 %h, %j, 16;\nadd.s64 %g, %g, %h;\n\
                 add.s64 %g, %g, {from};\n",
                2 * self.k()
            );
            let source = 2 * tile * self.tile();
            let _ = if self.tiles == Tiles::Copied {
                writeln!(out, "@%in cp.async.cg.shared.global [%o+{at}], [%g+{source}], 16; // copy {tile} {from} {i}")
            } else {
                writeln!(
                    out,
                    "@%in ld.global.v4.b32 {{%w0, %w1, %w2, %w3}}, [%g+{source}];\n\
                     @%in st.shared.v4.b32 [%o+{at}], {{%w0, %w1, %w2, %w3}}; // copy {tile} {from} {i}"
                )
            };
        }
    }

    fn fetch(&self, out: &mut String, tile: usize) {
        let at = tile % self.stages() * self.stage();
        if self.tiles == Tiles::Bulk {
            let (bytes, bar) = (2 * self.tile() * self.n, 8 * (tile % self.stages()));
            let _ = write!(
                out,
                "setp.eq.u32 %in, %t, 0;\nadd.u32 %o, %tiles, {at};\nadd.s64 %g, %b, {};\n\
                 @%in mbarrier.arrive.expect_tx.shared.b64 _, [%bars+{bar}], {bytes};\n\
                 @%in cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%o], [%g], {bytes}, [%bars+{bar}]; \
                 // copy {tile} %b\n",
                tile * bytes
            );
            return;
        }
        self.copy(out, tile, "%b", self.n, at);
        if self.left_shared {
            self.copy(out, tile, "%a", self.rows(), at + 2 * self.tile() * self.n);
        }
        if self.tiles == Tiles::Copied {
            let _ = writeln!(out, "cp.async.commit_group;");
        }
    }

    /// B as its tiles lie in shared memory.
    fn image(&self, b: &[f32]) -> Vec<f32> {
        let (tile, per, mut out) = (self.tile(), self.tile() / 8, vec![0.0; b.len()]);
        for (i, v) in b.iter().enumerate() {
            let (row, k) = (i / self.k(), i % self.k());
            let (chunk, within) = (k % tile / 8, k % 8);
            let at = match self.row {
                0 => row * 8 + chunk * self.n * 8,
                r => (row * per + chunk) ^ ((row * per + chunk) >> 3 & (r / 16 - 1)),
            };
            let at = if self.row == 0 { at } else { at * 8 };
            out[k / tile * tile * self.n + at + within] = *v;
        }
        out
    }

    /// Bytes from one step of 16 k to the next.
    fn step(&self, rows: usize) -> usize {
        if self.row == 0 { 2 * rows * 16 } else { 32 }
    }

    /// A descriptor in `to`.
    fn point(&self, out: &mut String, to: &str, rows: usize, at: usize, per_group: usize) {
        let _ = write!(
            out,
            "add.u32 %x, %tiles, {at};\nmad.lo.u32 %x, %group, {per_group}, %x;\nand.b32 %x, %x, 0x3ffff;\n\
             shr.u32 %x, %x, 4;\ncvt.u64.u32 {to}, %x;\nor.b64 {to}, {to}, {:#x}; // {to} {at}\n",
            self.descriptor(rows)
        );
    }

    fn multiply(&self, out: &mut String, tile: usize) {
        let (steps, at) = (self.tile() / 16, tile % self.stages() * self.stage());
        // With a product under way the fragments of the next one need registers of their own.
        let first = if self.deep { tile * steps * 4 } else { 0 };
        let wide = 16 * self.k();
        for s in (0..steps).filter(|_| !self.left_shared) {
            let from = 2 * (tile * self.tile() + 16 * s);
            for (i, part) in [0, wide, 16, wide + 16].iter().enumerate() {
                let r = first + 4 * s + i;
                let _ = writeln!(out, "ld.global.b32 %l{r}, [%left+{}]; // left {tile} {s} {i}", from + part);
            }
        }
        let _ = writeln!(out, "wgmma.fence.sync.aligned; // fence {tile}");
        let sums: Vec<String> = (0..self.n / 2).map(|i| format!("%d{i}")).collect();
        for s in 0..steps {
            self.point(out, "%bdesc", self.n, at + s * self.step(self.n), 0);
            let (left, last) = if self.left_shared {
                let start = at + 2 * self.tile() * self.n + s * self.step(self.rows());
                self.point(out, "%adesc", self.rows(), start, 64 * if self.row == 0 { 16 } else { self.row });
                ("%adesc".to_string(), ", 0")
            } else {
                let r = first + 4 * s;
                (format!("{{%l{r}, %l{}, %l{}, %l{}}}", r + 1, r + 2, r + 3), "")
            };
            let p = if tile + s == 0 { "%no" } else { "%yes" };
            let _ = writeln!(
                out,
                "wgmma.mma_async.sync.aligned.m64n{}k16.f32.{ty}.{ty} {{{}}}, {left}, %bdesc, {p}, 1, 1, 0{last}; \
                 // product {tile} {s}",
                self.n,
                sums.join(", "),
                ty = self.ty
            );
        }
        let left = usize::from(self.deep && tile + 1 < Self::TILES);
        let _ = writeln!(out, "wgmma.commit_group.sync.aligned; // commit {tile}");
        let _ = writeln!(out, "wgmma.wait_group.sync.aligned {left}; // wait {tile}");
    }

    /// The kernel.
    pub fn text(&self) -> String {
        let mut out = format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 tiles[];\n\
             .visible .entry product(.param .u64 a, .param .u64 b, .param .u64 d)\n.maxntid {}, 1, 1\n{{\n\
             .shared .align 8 .b8 bars[24];\n.reg .b32 %t, %bars, %c, %n, %j, %o, %x, %tiles, %group, %lane, %row, %w<4>, %l<64>;\n.reg .pred %in, %yes, %no;\n\
             .reg .b64 %a, %b, %to, %g, %h, %left, %adesc, %bdesc;\n.reg .f32 %d<128>;\n\
             ld.param.u64 %a, [a];\nld.param.u64 %b, [b];\nld.param.u64 %to, [d];\nmov.u32 %t, %tid.x;\n\
             mov.u32 %tiles, tiles;\nshr.u32 %group, %t, 7;\nand.b32 %lane, %t, 31;\nshr.u32 %row, %t, 5;\n\
             shl.b32 %row, %row, 4;\nshr.u32 %x, %lane, 2;\nadd.u32 %row, %row, %x;\nand.b32 %x, %lane, 3;\n\
             mul.wide.u32 %left, %row, {};\nmul.wide.u32 %g, %x, 4;\nadd.s64 %left, %left, %g;\n\
             add.s64 %left, %left, %a;\nmul.wide.u32 %h, %row, {};\nmul.wide.u32 %g, %x, 8;\nadd.s64 %h, %h, %g;\n\
             add.s64 %to, %to, %h;\nsetp.eq.u32 %yes, %t, %t;\nsetp.ne.u32 %no, %t, %t; // ready\n",
            self.threads(),
            2 * self.k(),
            4 * self.n
        );
        if self.tiles == Tiles::Bulk {
            out += "setp.eq.u32 %in, %t, 0;\nmov.u32 %bars, bars;\n";
            for stage in 0..self.stages() {
                let _ = writeln!(out, "@%in mbarrier.init.shared.b64 [%bars+{}], 1;", 8 * stage);
            }
            out += "fence.proxy.async.shared::cta;\nbar.sync 0;\n";
        }
        self.fetch(&mut out, 0);
        for tile in 0..Self::TILES {
            let (bar, parity) = (8 * (tile % self.stages()), tile / self.stages() % 2);
            let _ = match self.tiles {
                Tiles::Stored => Ok(()),
                Tiles::Copied => writeln!(out, "cp.async.wait_group 0; // copied {tile}"),
                Tiles::Bulk => writeln!(
                    out,
                    "W{tile}: mbarrier.try_wait.parity.shared.b64 %in, [%bars+{bar}], {parity}; // try {tile}\n@!%in bra W{tile}; // copied {tile}"
                ),
            };
            // What bulk copies wrote needs no fence.
            let fence =
                if self.tiles == Tiles::Bulk { "// no fence" } else { "fence.proxy.async.shared::cta; // visible" };
            let _ = writeln!(out, "{fence} {tile}\nbar.sync 0; // there {tile}");
            if tile + 1 < Self::TILES {
                self.fetch(&mut out, tile + 1);
            }
            self.multiply(&mut out, tile);
        }
        for (j, half) in (0..self.n / 8).flat_map(|j| [(j, 0), (j, 1)]) {
            let (r, at) = (4 * j + 2 * half, 32 * j + 32 * self.n * half);
            let _ = writeln!(out, "st.global.v2.f32 [%to+{at}], {{%d{r}, %d{}}}; // result {r}", r + 1);
        }
        out + "ret; // end\n}\n"
    }

    /// Runs `module`, which [`Spec::text`] is or was, and compares.
    pub fn run(&self, module: &Module, seed: u64) -> Result<Stats, Fault> {
        let mut random = Random(seed);
        let (rows, n, k) = (self.rows(), self.n, self.k());
        let (a, b) = (random.smalls(rows * k), random.smalls(n * k));
        let bits = |v: &f32| if self.ty == "f16" { f16::from_f32(*v).to_bits() } else { bf16::from_f32(*v).to_bits() };
        let bytes = |v: &[f32]| v.iter().flat_map(|v| bits(v).to_le_bytes()).collect::<Vec<u8>>();
        let right = if self.tiles == Tiles::Bulk { self.image(&b) } else { b.clone() };
        let mut device = Device::new(Config::default());
        let [pa, pb, pd] =
            [("a", 2 * rows * k), ("b", 2 * n * k), ("d", 4 * rows * n)].map(|(n, b)| device.alloc(n, b));
        device.write(pa, &bytes(&a))?;
        device.write(pb, &bytes(&right))?;
        let (block, args) = ([self.threads() as u32, 1, 1], [pa, pb, pd].map(Arg::Ptr));
        let stats = device.launch(module, "product", [1; 3], block, self.shared(), &args, &seeded(seed))?;
        let d = device.read_f32(pd, rows * n)?;
        for (i, d) in d.iter().enumerate() {
            let (a, b) = (&a[i / n * k..][..k], &b[i % n * k..][..k]);
            let want: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            assert_eq!(*d, want, "{self:?}, seed {seed}, row {}, column {}", i / n, i % n);
        }
        Ok(stats)
    }
}
