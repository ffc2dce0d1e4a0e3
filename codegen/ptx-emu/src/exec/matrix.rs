//! `ldmatrix`, `stmatrix` and `mma.sync`.
//!
//! A product is `d[m][n] = c[m][n] + Σ a[m][k] b[k][n]`, summed in order of rising `k` with one fused multiply-add in f32 (or a
//! wrapping i32) each. Tensor cores sum in blocks of another order and with fewer guard bits: compare with a tolerance, and bits
//! only between two runs of the emulator.

use super::{Cx, lanes};
use crate::num;
use crate::ops::convert;
use crate::ops::{Accumulator, Addr, Mma, Order, RegId};
use crate::ty::Ty;
use crate::{Fault, FaultKind};

const WEAK: Order = Order { acquire: false, release: false, strong: false };

/// An element as the factor of a product.
pub(super) fn factor(ty: Ty, bits: u32) -> f32 {
    match ty {
        Ty::F16 => num::f16_to_f32(bits as u16),
        Ty::BF16 => num::bf16_to_f32(bits as u16),
        // The low 13 bits of a tf32 in a register do not count.
        Ty::TF32 => f32::from_bits(bits & !0x1fff),
        Ty::S8 => f32::from(bits as i8),
        Ty::U8 => f32::from(bits as u8),
        _ => convert::format(ty).map_or(0.0, |f| f.decode(bits.into()) as f32),
    }
}

impl Cx<'_, '_> {
    fn whole_warp(&self) -> Result<(), Fault> {
        if self.mask == u32::MAX {
            return Ok(());
        }
        self.err(None, FaultKind::Collective, "needs all 32 lanes, but some have exited")
    }

    /// Rows of the matrices: eight lanes give the addresses of each.
    fn rows(&mut self, matrices: usize, addr: &Addr) -> Result<Vec<usize>, Fault> {
        self.whole_warp()?;
        let addresses = self.addresses(addr)?;
        let rows = (0..8 * matrices).map(|l| self.shared_at(l, addresses[l], 16, 16)).collect::<Result<Vec<_>, _>>()?;
        let banks: Vec<u32> = rows.iter().map(|r| *r as u32).collect();
        self.stats.banks(&banks, 16, self.line);
        Ok(rows)
    }

    pub(super) fn load_matrix(&mut self, trans: bool, dst: &[RegId], addr: &Addr) -> Result<(), Fault> {
        let rows = self.rows(dst.len(), addr)?;
        for (i, (d, rows)) in dst.iter().zip(rows.chunks(8)).enumerate() {
            let mut m = [[0u64; 8]; 8];
            for (r, at) in rows.iter().enumerate() {
                let mut bytes = [0; 16];
                self.read_shared(8 * i + r, *at, &mut bytes, WEAK)?;
                for (c, b) in bytes.chunks(2).enumerate() {
                    m[r][c] = u64::from(b[0]) | u64::from(b[1]) << 8;
                }
            }
            let at = |r: usize, c: usize| if trans { m[c][r] } else { m[r][c] };
            let out = std::array::from_fn(|l| at(l / 4, l % 4 * 2) | at(l / 4, l % 4 * 2 + 1) << 16);
            self.set(*d, u32::MAX, &out);
        }
        Ok(())
    }

    pub(super) fn store_matrix(&mut self, trans: bool, src: &[RegId], addr: &Addr) -> Result<(), Fault> {
        let rows = self.rows(src.len(), addr)?;
        for (i, (s, rows)) in src.iter().zip(rows.chunks(8)).enumerate() {
            let v = self.src(crate::ops::Src::Reg(*s))?;
            let mut m = [[0u16; 8]; 8];
            for (l, v) in v.iter().enumerate() {
                for h in 0..2 {
                    let (r, c) = (l / 4, l % 4 * 2 + h);
                    let cell = if trans { &mut m[c][r] } else { &mut m[r][c] };
                    *cell = (v >> (16 * h)) as u16;
                }
            }
            for (r, at) in rows.iter().enumerate() {
                let bytes: Vec<u8> = m[r].iter().flat_map(|v| v.to_le_bytes()).collect();
                self.write_shared(8 * i + r, *at, &bytes, WEAK)?;
            }
        }
        Ok(())
    }

    /// The matrix that is spread over the lanes: `rows` × `k` elements, from row `lane / 4` and column `lane % 4` of each
    /// 8 × 16-byte part; parts go down first, then to the right.
    pub(super) fn gather(&self, regs: &[RegId], ty: Ty, tall: bool, k: usize) -> Result<Vec<f32>, Fault> {
        let per = 4 / ty.size();
        let high = if tall { 2 } else { 1 };
        let mut m = vec![0.0; 8 * high * k];
        for (i, r) in regs.iter().enumerate() {
            let v = self.src(crate::ops::Src::Reg(*r))?;
            for l in lanes(u32::MAX) {
                let (row, col) = (l / 4 + 8 * (i % high), i / high * 4 * per + l % 4 * per);
                for e in 0..per {
                    let bits = (v[l] >> (8 * ty.size() * e)) as u32;
                    m[row * k + col + e] = factor(ty, if ty.size() == 1 { bits & 255 } else { bits });
                }
            }
        }
        Ok(m)
    }

    pub(super) fn mma(&mut self, m: &Mma) -> Result<(), Fault> {
        self.whole_warp()?;
        let (a, b) = (self.gather(&m.a, m.a_ty, true, m.k)?, self.gather(&m.b, m.b_ty, false, m.k)?);
        let c = m.c.iter().map(|s| self.src(*s)).collect::<Result<Vec<_>, _>>()?;
        let mut d = vec![[0u64; 32]; m.d.len()];
        for l in 0..32 {
            for i in 0..4 {
                let (row, col) = (l / 4 + i / 2 * 8, l % 4 * 2 + i % 2);
                let (a, b) = (&a[row * m.k..][..m.k], &b[col * m.k..][..m.k]);
                let pairs = a.iter().zip(b);
                match m.acc {
                    Accumulator::F32 => {
                        let c = f32::from_bits(c[i][l] as u32);
                        d[i][l] = pairs.fold(c, |s, (a, b)| a.mul_add(*b, s)).to_bits().into();
                    }
                    Accumulator::F16 => {
                        let c = num::f16_to_f32((c[i / 2][l] >> (16 * (i % 2))) as u16);
                        let s = pairs.fold(c, |s, (a, b)| a.mul_add(*b, s));
                        let bits = num::F16.encode(s.into(), num::Round::Near, false);
                        d[i / 2][l] |= bits << (16 * (i % 2));
                    }
                    Accumulator::S32 => {
                        let sum: i64 = pairs.map(|(a, b)| *a as i64 * *b as i64).sum();
                        let s = i64::from(c[i][l] as i32) + sum;
                        let s = if m.saturate { s.clamp(i32::MIN.into(), i32::MAX.into()) } else { s };
                        d[i][l] = u64::from(s as u32);
                    }
                }
            }
        }
        for (r, v) in m.d.iter().zip(&d) {
            self.set(*r, u32::MAX, v);
        }
        Ok(())
    }
}
