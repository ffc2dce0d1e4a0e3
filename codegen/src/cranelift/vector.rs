//! Moving lanes: splat, halves, single lanes, table look-up, reductions.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, ConstantData, InstBuilder, MemFlagsData, types};
use tilewright_ir::kernel::{Opcode, Scalar, Type, Value};

use super::lower::{Lower, Pieces, count, full, lane_type, vector_type};

impl Lower<'_, '_> {
    /// Bytes of two vectors by index.
    pub(super) fn shuffle(&mut self, a: ir::Value, b: ir::Value, mask: [u8; 16]) -> ir::Value {
        let (a, b) = (self.cast(a, types::I8X16), self.cast(b, types::I8X16));
        let mask = self.b.func.dfg.immediates.push(ConstantData::from(&mask[..]));
        self.b.ins().shuffle(a, b, mask)
    }

    /// The vector with byte `by` first.
    pub(super) fn rotate(&mut self, v: ir::Value, by: u8) -> ir::Value {
        let ty = self.clif_type(v);
        let mask = std::array::from_fn(|i| i as u8 + by);
        let v = self.shuffle(v, v, mask);
        self.cast(v, ty)
    }

    pub(super) fn bitcast(&mut self, a: Value, to: Type) -> Pieces {
        let (from, pieces) = (self.ty(a), self.get(a));
        let (lane, vector) = (lane_type(to.scalar), vector_type(to.scalar));
        match (from.lanes == 1, to.lanes == 1) {
            (false, false) => self.cast_all(&pieces, vector),
            (true, true) if self.clif_type(pieces[0]) == lane => pieces,
            (true, true) => vec![self.b.ins().bitcast(lane, MemFlagsData::new(), pieces[0])],
            (true, false) => {
                let mut v = pieces[0];
                if self.clif_type(v) == types::I16 {
                    v = self.b.ins().uextend(types::I32, v);
                }
                let ty = full(self.clif_type(v));
                let v = self.b.ins().scalar_to_vector(ty, v);
                vec![self.cast(v, vector)]
            }
            (false, true) => {
                let v = self.cast(pieces[0], full(lane));
                vec![self.b.ins().extractlane(v, 0)]
            }
        }
    }

    /// All pieces of a splat are one value, except a few that each come from memory.
    pub(super) fn splat(&mut self, a: Value, to: Type) -> Pieces {
        let vector = vector_type(to.scalar);
        let n = count(to.lanes, vector.lane_bits());
        if let Some(&f) = self.folded.get(&a) {
            let (loads, copies) = if f.once && n <= 2 { (n, 1) } else { (1, n) };
            let mut out = Vec::with_capacity(n);
            for _ in 0..loads {
                let scalar = self.load_to_splat(f.pointer, f.bytes, to.x(1));
                let ty = full(self.clif_type(scalar));
                let v = self.b.ins().splat(ty, scalar);
                let v = self.cast(v, vector);
                out.resize(out.len() + copies, v);
            }
            return out;
        }
        let mut v = self.scalar(a);
        if to.scalar == Scalar::I1 {
            let wide = self.b.ins().uextend(vector.lane_type(), v);
            v = self.b.ins().ineg(wide);
        }
        let v = self.b.ins().splat(vector, v);
        vec![v; n]
    }

    /// A lane of a piece as a scalar of the IR: truth values are 0 or 1.
    fn lane(&mut self, piece: ir::Value, lane: u8, scalar: Scalar) -> ir::Value {
        let v = self.b.ins().extractlane(piece, lane);
        if scalar == Scalar::I1 { self.b.ins().icmp_imm_s(IntCC::NotEqual, v, 0) } else { v }
    }

    /// Piece and lane in it of lane `lane`.
    fn place(&self, pieces: &[ir::Value], lane: i64) -> (usize, u8) {
        let n = i64::from(self.clif_type(pieces[0]).lane_count());
        ((lane / n) as usize, (lane % n) as u8)
    }

    pub(super) fn extract(&mut self, a: Value, lane: i64) -> Pieces {
        let (ty, pieces) = (self.ty(a), self.get(a));
        if ty.lanes == 1 {
            return pieces;
        }
        let (piece, lane) = self.place(&pieces, lane);
        vec![self.lane(pieces[piece], lane, ty.scalar)]
    }

    pub(super) fn insert(&mut self, a: Value, scalar: Value, lane: i64) -> Pieces {
        let (ty, mut pieces, mut s) = (self.ty(a), self.get(a), self.scalar(scalar));
        if ty.lanes == 1 {
            return vec![s];
        }
        if ty.scalar == Scalar::I1 {
            let width = self.clif_type(pieces[0]).lane_type();
            if width != types::I8 {
                s = self.b.ins().uextend(width, s);
            }
            s = self.b.ins().ineg(s);
        }
        let (piece, lane) = self.place(&pieces, lane);
        pieces[piece] = self.b.ins().insertlane(pieces[piece], s, lane);
        pieces
    }

    pub(super) fn half(&mut self, a: Value, high: bool) -> Pieces {
        let (ty, pieces) = (self.ty(a), self.get(a));
        let lanes = i64::from(ty.lanes / 2);
        if lanes <= 1 {
            return self.extract(a, i64::from(high));
        }
        if pieces.len() > 1 {
            let half = pieces.len() / 2;
            return if high { pieces[half..].to_vec() } else { pieces[..half].to_vec() };
        }
        if !high {
            return pieces;
        }
        let bytes = lanes as u32 * self.clif_type(pieces[0]).lane_bits() / 8;
        vec![self.rotate(pieces[0], bytes as u8)]
    }

    /// Lane `i` takes lane `i ^ distance`: within a piece, or piece by piece.
    pub(super) fn swap(&mut self, a: Value, distance: i64) -> Pieces {
        let pieces = self.get(a);
        let ty = self.clif_type(pieces[0]);
        let bytes = distance as u32 * ty.lane_bits() / 8;
        if bytes >= 16 {
            return (0..pieces.len()).map(|i| pieces[i ^ (bytes / 16) as usize]).collect();
        }
        let mask = std::array::from_fn(|i| (i as u8) ^ bytes as u8);
        let one = |l: &mut Self, v| {
            let v = l.shuffle(v, v, mask);
            l.cast(v, ty)
        };
        pieces.into_iter().map(|v| one(self, v)).collect()
    }

    /// Indices are below 16, so what the instruction does with others is of no interest.
    pub(super) fn swizzle(&mut self, table: Value, index: Value) -> Pieces {
        let table = self.scalar(table);
        if self.ty(index).lanes == 1 {
            let i = self.scalar(index);
            let index = self.b.ins().splat(types::I8X16, i);
            let v = self.look_up(table, index);
            return vec![self.b.ins().extractlane(v, 0)];
        }
        self.get(index).into_iter().map(|i| self.look_up(table, i)).collect()
    }

    fn look_up(&mut self, table: ir::Value, index: ir::Value) -> ir::Value {
        if self.caps.x86 { self.b.ins().x86_pshufb(table, index) } else { self.b.ins().swizzle(table, index) }
    }

    /// Halves are combined until one lane is left.
    pub(super) fn reduce(&mut self, op: Opcode, a: Value) -> Pieces {
        let (ty, mut pieces) = (self.ty(a), self.get(a));
        if ty.lanes == 1 {
            return pieces;
        }
        while pieces.len() > 1 {
            let (low, high) = pieces.split_at(pieces.len() / 2);
            pieces = low.iter().zip(high).map(|(&x, &y)| self.binary_piece(op, x, y)).collect();
        }
        let vector = self.clif_type(pieces[0]);
        let mut bytes = ty.bytes().min(16);
        let mut v = pieces[0];
        while bytes > vector.lane_bits() / 8 {
            bytes /= 2;
            let high = self.rotate(v, bytes as u8);
            v = self.binary_piece(op, v, high);
        }
        vec![self.b.ins().extractlane(v, 0)]
    }
}
