//! Norm and rotation of a head of q or k, by a warp, in registers: [`HeadPrep`] as the CPU does it in memory.

use super::super::qk::{HeadPrep, PrepArgs, RopeStyle, turn};
use super::block::{self, Place};
use super::rowwise::turn_neighbours;
use tilewright_ir::kernel::{KernelBuilder, Value};

/// Elements of a head that are in one thread.
pub(super) struct Part {
    /// Which.
    pub place: Place,
    /// Their values, f32.
    pub values: Value,
}

/// Elements before rotation, and how they are to be rotated.
enum Raw {
    Plain(Part),
    /// The first of each pair, and the second; where their cosines are.
    Half([Part; 2], Place),
    /// Pairs side by side.
    Interleaved(Part, Place),
}

impl Raw {
    fn parts(&mut self) -> &mut [Part] {
        match self {
            Raw::Plain(p) | Raw::Interleaved(p, _) => std::slice::from_mut(p),
            Raw::Half(both, _) => both,
        }
    }
}

/// A head of `hd` floats, a multiple of 8, spread over the lanes of a warp.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub prep: HeadPrep,
    pub args: PrepArgs,
    pub hd: u64,
}

impl Head {
    /// The elements of the head at `src` that this lane takes care of, normed, and rotated for `token` of the run.
    pub fn load(self, b: &mut KernelBuilder, lane: Value, token: Value, src: Value) -> Vec<Part> {
        let mut raw = self.raw(b, lane, src);
        if let (Some(eps), Some(gamma)) = (self.prep.norm, self.args.gamma) {
            let mut sum = b.f32(1, 0.0);
            for p in raw.iter_mut().flat_map(Raw::parts) {
                let part = block::sum_of_squares(b, &[p.values]);
                sum = b.add(sum, part);
            }
            let sum = block::of_warp(b, sum, block::plus);
            let factor = block::rms_factor(b, sum, self.hd, eps);
            for p in raw.iter_mut().flat_map(Raw::parts) {
                let g = p.place.load(b, gamma);
                let f = b.splat(factor, b.ty(g).lanes);
                let v = b.mul(p.values, f);
                p.values = b.mul(v, g);
            }
        }
        let table = match (self.prep.rope, self.args.angles) {
            (Some((pairs, _)), Some(angles)) => Some((pairs, b.index(angles, token, pairs as i64 * 8))),
            _ => None,
        };
        raw.into_iter().flat_map(|r| rotated(b, r, table)).collect()
    }

    fn raw(self, b: &mut KernelBuilder, lane: Value, src: Value) -> Vec<Raw> {
        let part = |b: &mut KernelBuilder, place: Place| Part { place, values: place.load(b, src) };
        let Some((pairs, style)) = self.prep.rope else {
            let lanes = block::lanes_of_warp(self.hd, &[self.hd * 4]);
            let places = Place::all(b, lane, 32, self.hd, lanes);
            return places.into_iter().map(|p| Raw::Plain(part(b, p))).collect();
        };
        let rotated = 2 * pairs;
        let mut out = vec![];
        match style {
            RopeStyle::Half => {
                let lanes = block::lanes_of_warp(pairs, &[pairs * 4]);
                for p in Place::all(b, lane, 32, pairs, lanes) {
                    let both = [part(b, p), part(b, p.further(pairs))];
                    out.push(Raw::Half(both, p));
                }
            }
            RopeStyle::Interleaved => {
                // Pairs are twice as wide as the vectors of their cosines.
                let lanes = block::lanes_of_warp(pairs, &[pairs * 4]).min(2);
                for p in Place::all(b, lane, 32, pairs, lanes) {
                    let wide = p.times(b, 2);
                    out.push(Raw::Interleaved(part(b, wide), p));
                }
            }
        }
        let rest = self.hd - rotated;
        if rest > 0 {
            let lanes = block::lanes_of_warp(rest, &[rest * 4, rotated * 4]);
            for p in Place::all(b, lane, 32, rest, lanes) {
                out.push(Raw::Plain(part(b, p.further(rotated))));
            }
        }
        out
    }
}

/// Rotates by the angles of a row: as many cosines as there are pairs, then sines.
fn rotated(b: &mut KernelBuilder, raw: Raw, table: Option<(u64, Value)>) -> Vec<Part> {
    let angles = |b: &mut KernelBuilder, place: Place| {
        let (pairs, row) = table.expect("what is rotated has angles");
        (place.load(b, row), place.further(pairs).load(b, row))
    };
    match raw {
        Raw::Plain(p) => vec![p],
        Raw::Half([x0, x1], place) => {
            let (cos, sin) = angles(b, place);
            let (y0, y1) = turn(b, x0.values, x1.values, cos, sin);
            vec![Part { values: y0, ..x0 }, Part { values: y1, ..x1 }]
        }
        Raw::Interleaved(x, place) => {
            let (cos, sin) = angles(b, place);
            let values = turn_neighbours(b, x.values, cos, sin);
            vec![Part { values, ..x }]
        }
    }
}
