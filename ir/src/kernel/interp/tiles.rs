//! Tiles: 16 rows of 64 bytes each, between memory and products.

use super::super::{Imm, Inst, Opcode, Scalar, TILE_ROW_BYTES, TILE_ROWS, TILES};
use super::lanes::Lanes;
use super::{Fault, Machine, Precision, int_imm};

type Tile = [u8; TILE_ROWS * TILE_ROW_BYTES];

/// All tiles, made when the first is used. The verifier has seen that none is used before it is written.
#[derive(Default)]
pub(super) struct Tiles(Vec<Tile>);

impl Tiles {
    fn get(&mut self, t: usize) -> &mut Tile {
        self.0.resize(TILES as usize, [0; TILE_ROWS * TILE_ROW_BYTES]);
        &mut self.0[t]
    }

    /// Lanes of row `r`.
    fn row(&mut self, t: usize, r: usize, s: Scalar) -> Lanes {
        let bytes = &self.get(t)[r * TILE_ROW_BYTES..][..TILE_ROW_BYTES];
        bytes.chunks_exact(s.bytes() as usize).map(|c| c.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b))).collect()
    }
}

impl Machine<'_> {
    /// Runs an op on tiles.
    pub(super) fn tile(&mut self, inst: &Inst) -> Result<(), Fault> {
        if let Imm::Tiles(tiles) = inst.imm {
            self.tile_dot(tiles.map(usize::from));
            return Ok(());
        }
        let t = int_imm(inst) as usize;
        if inst.op == Opcode::TileZero {
            self.tiles.get(t).fill(0);
            return Ok(());
        }
        let (pointer, stride) = (inst.args[0], self.scalar(inst.args[1]) as i64);
        for r in 0..TILE_ROWS {
            let (offset, at) = (stride.saturating_mul(r as i64), r * TILE_ROW_BYTES);
            if inst.op == Opcode::TileLoad {
                let row: [u8; TILE_ROW_BYTES] =
                    self.read(pointer, offset, TILE_ROW_BYTES)?.try_into().expect("a row is that long");
                self.tiles.get(t)[at..at + TILE_ROW_BYTES].copy_from_slice(&row);
            } else {
                let row: [u8; TILE_ROW_BYTES] =
                    self.tiles.get(t)[at..at + TILE_ROW_BYTES].try_into().expect("a row is that long");
                self.write(pointer, offset, &row)?;
            }
        }
        Ok(())
    }

    /// A tile is memory: in `f64` precision, too, it holds `f32`.
    fn tile_dot(&mut self, [c, a, b]: [usize; 3]) {
        let (n, tiles) = (self.precision, &mut self.tiles);
        let right: Vec<Lanes> = (0..TILE_ROWS).map(|k| tiles.row(b, k, Scalar::BF16)).collect();
        for m in 0..TILE_ROWS {
            let (left, acc) = (tiles.row(a, m, Scalar::BF16), tiles.row(c, m, Scalar::F32));
            for (j, &acc) in acc.iter().enumerate() {
                let half =
                    |h: usize| (0..TILE_ROWS).fold(0.0, |s, k| n.bf16_fma(s, left[2 * k + h], right[k][2 * j + h]));
                let sum = n.flushed_sum(half(0), half(1));
                let sum = n.flushed_sum(f32::from_bits(acc as u32).into(), sum) as f32;
                let at = m * TILE_ROW_BYTES + 4 * j;
                tiles.get(c)[at..at + 4].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
}

impl Precision {
    /// `acc + a * b` for the bits of two `bf16`, with denormals as zeros: an `f32`, or in `f64` precision not rounded.
    pub(super) fn bf16_fma(self, acc: f64, a: u64, b: u64) -> f64 {
        let (a, b) = (self.get(Scalar::BF16, a), self.get(Scalar::BF16, b));
        match self {
            Precision::F32 => flush(flush(a as f32).mul_add(flush(b as f32), flush(acc as f32))).into(),
            Precision::F64 => a.mul_add(b, acc),
        }
    }

    /// `a + b`, likewise.
    fn flushed_sum(self, a: f64, b: f64) -> f64 {
        match self {
            Precision::F32 => flush(flush(a as f32) + flush(b as f32)).into(),
            Precision::F64 => a + b,
        }
    }
}

/// A denormal as zero of its sign.
fn flush(v: f32) -> f32 {
    if v.is_subnormal() { 0f32.copysign(v) } else { v }
}
