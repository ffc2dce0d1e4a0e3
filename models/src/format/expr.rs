//! The expression language of block formats.
//!
//! Integers, floats, the variable `i` (element) or `s` (group), fields with an index, and, from loosest to tightest:
//! `c ? a : b`, `|`, `^`, `&`, `== !=`, `< <= > >=`, `<< >>`, `+ -`, `* / %`, unary `-`; calls: `exp2(e)`.
//! Integers are 64 bits and wrap; division by zero and shifts outside 0..=63 give 0, so that no block can stop a decoder.

use super::FloatKind;

/// Type of a field in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FieldType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F16,
    BF16,
    F32,
}

impl FieldType {
    pub(crate) fn bytes(self) -> usize {
        match self {
            FieldType::U8 | FieldType::I8 => 1,
            FieldType::U16 | FieldType::I16 | FieldType::F16 | FieldType::BF16 => 2,
            FieldType::U32 | FieldType::I32 | FieldType::F32 => 4,
        }
    }

    pub(crate) fn is_signed(self) -> bool {
        matches!(self, FieldType::I8 | FieldType::I16 | FieldType::I32)
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, FieldType::F16 | FieldType::BF16 | FieldType::F32)
    }
}

/// A field: `count` values of type `ty`, from byte `at` on, little-endian.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub name: String,
    pub at: usize,
    pub ty: FieldType,
    pub count: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Or,
    Xor,
    And,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Shl,
    Shr,
    Add,
    Sub,
    Mul,
    Div,
    Rem,
}

#[derive(Debug, Clone)]
pub(crate) enum Expr {
    Int(i64),
    Float(f64),
    Var,
    Field(usize, Option<Box<Expr>>),
    Neg(Box<Expr>),
    Exp2(Box<Expr>),
    Binary(Op, Box<Expr>, Box<Expr>),
    Cond(Box<Expr>, Box<Expr>, Box<Expr>),
}

/// A number while evaluating.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Num {
    I(i64),
    F(f64),
}

impl Num {
    pub(crate) fn int(self) -> i64 {
        match self {
            Num::I(v) => v,
            Num::F(v) => v as i64, // saturates
        }
    }

    pub(crate) fn float(self) -> f64 {
        match self {
            Num::I(v) => v as f64,
            Num::F(v) => v,
        }
    }
}

pub(crate) fn int_op(op: Op, a: i64, b: i64) -> i64 {
    let shift = u32::try_from(b).ok().filter(|n| *n < 64);
    match op {
        Op::Or => a | b,
        Op::Xor => a ^ b,
        Op::And => a & b,
        Op::Eq => i64::from(a == b),
        Op::Ne => i64::from(a != b),
        Op::Lt => i64::from(a < b),
        Op::Le => i64::from(a <= b),
        Op::Gt => i64::from(a > b),
        Op::Ge => i64::from(a >= b),
        Op::Shl => shift.map_or(0, |n| a.wrapping_shl(n)),
        Op::Shr => shift.map_or(0, |n| a >> n),
        Op::Add => a.wrapping_add(b),
        Op::Sub => a.wrapping_sub(b),
        Op::Mul => a.wrapping_mul(b),
        Op::Div => a.checked_div(b).unwrap_or(0),
        Op::Rem => a.checked_rem(b).unwrap_or(0),
    }
}

fn float_op(op: Op, a: f64, b: f64) -> Num {
    let truth = |b: bool| Num::I(i64::from(b));
    match op {
        Op::Add => Num::F(a + b),
        Op::Sub => Num::F(a - b),
        Op::Mul => Num::F(a * b),
        Op::Div => Num::F(a / b),
        Op::Rem => Num::F(a % b),
        Op::Eq => truth(a == b),
        Op::Ne => truth(a != b),
        Op::Lt => truth(a < b),
        Op::Le => truth(a <= b),
        Op::Gt => truth(a > b),
        Op::Ge => truth(a >= b),
        Op::Or | Op::Xor | Op::And | Op::Shl | Op::Shr => Num::I(int_op(op, a as i64, b as i64)),
    }
}

/// Value `index` of a field; 0 beyond its end (loading refuses such indices).
pub(crate) fn read_field(field: &Field, index: i64, block: &[u8]) -> Num {
    let bytes = usize::try_from(index)
        .ok()
        .filter(|i| *i < field.count)
        .map(|i| field.at + i * field.ty.bytes())
        .and_then(|at| block.get(at..at + field.ty.bytes()));
    let Some(b) = bytes else { return Num::I(0) };
    match (field.ty, b) {
        (FieldType::U8, [a]) => Num::I(i64::from(*a)),
        (FieldType::I8, [a]) => Num::I(i64::from(a.cast_signed())),
        (FieldType::U16, [a, b]) => Num::I(i64::from(u16::from_le_bytes([*a, *b]))),
        (FieldType::I16, [a, b]) => Num::I(i64::from(i16::from_le_bytes([*a, *b]))),
        (FieldType::F16, [a, b]) => Num::F(half::f16::from_le_bytes([*a, *b]).to_f64()),
        (FieldType::BF16, [a, b]) => Num::F(half::bf16::from_le_bytes([*a, *b]).to_f64()),
        (FieldType::U32, [a, b, c, d]) => Num::I(i64::from(u32::from_le_bytes([*a, *b, *c, *d]))),
        (FieldType::I32, [a, b, c, d]) => Num::I(i64::from(i32::from_le_bytes([*a, *b, *c, *d]))),
        (FieldType::F32, [a, b, c, d]) => Num::F(f64::from(f32::from_le_bytes([*a, *b, *c, *d]))),
        _ => Num::I(0),
    }
}

impl Expr {
    /// Evaluates on one block.
    pub(crate) fn eval(&self, fields: &[Field], var: i64, block: &[u8]) -> Num {
        match self {
            Expr::Int(v) => Num::I(*v),
            Expr::Float(v) => Num::F(*v),
            Expr::Var => Num::I(var),
            Expr::Field(f, index) => {
                let index = index.as_ref().map_or(0, |e| e.eval(fields, var, block).int());
                fields.get(*f).map_or(Num::I(0), |f| read_field(f, index, block))
            }
            Expr::Neg(e) => match e.eval(fields, var, block) {
                Num::I(v) => Num::I(v.wrapping_neg()),
                Num::F(v) => Num::F(-v),
            },
            Expr::Exp2(e) => Num::F(e.eval(fields, var, block).float().exp2()),
            Expr::Binary(op, a, b) => match (a.eval(fields, var, block), b.eval(fields, var, block)) {
                (Num::I(a), Num::I(b)) => Num::I(int_op(*op, a, b)),
                (a, b) => float_op(*op, a.float(), b.float()),
            },
            Expr::Cond(c, a, b) => {
                if c.eval(fields, var, block).float() != 0.0 {
                    a.eval(fields, var, block)
                } else {
                    b.eval(fields, var, block)
                }
            }
        }
    }

    /// Whether the result can be other than an integer.
    pub(crate) fn is_float(&self, fields: &[Field]) -> bool {
        match self {
            Expr::Int(_) | Expr::Var => false,
            Expr::Float(_) | Expr::Exp2(_) => true,
            Expr::Field(f, _) => fields.get(*f).is_some_and(|f| f.ty.is_float()),
            Expr::Neg(e) => e.is_float(fields),
            Expr::Binary(op, a, b) => {
                matches!(op, Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Rem)
                    && (a.is_float(fields) || b.is_float(fields))
            }
            Expr::Cond(_, a, b) => a.is_float(fields) || b.is_float(fields),
        }
    }

    /// Whether the block has a say in it.
    pub(crate) fn reads_field(&self) -> bool {
        match self {
            Expr::Int(_) | Expr::Float(_) | Expr::Var => false,
            Expr::Field(..) => true,
            Expr::Neg(e) | Expr::Exp2(e) => e.reads_field(),
            Expr::Binary(_, a, b) => a.reads_field() || b.reads_field(),
            Expr::Cond(c, a, b) => c.reads_field() || a.reads_field() || b.reads_field(),
        }
    }
}

/// Whether `v` survives being stored as `kind`.
pub(crate) fn fits(kind: FloatKind, v: f32) -> bool {
    let back = match kind {
        FloatKind::F32 => v,
        FloatKind::F16 => half::f16::from_f32(v).to_f32(),
        FloatKind::BF16 => half::bf16::from_f32(v).to_f32(),
    };
    back == v || !v.is_finite()
}

/// A block of zeros, one of ones, and seeded noise: what a declaration is tried on where nothing can be proved.
pub(crate) fn sample_blocks(fields: &[Field]) -> impl Iterator<Item = Vec<u8>> {
    let len = fields.iter().map(|f| f.at + f.ty.bytes() * f.count).max().unwrap_or(0);
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    (0..64u8).map(move |round| {
        let noise = (0..len).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if round < 2 { round } else { state.to_le_bytes()[7] }
        });
        noise.collect()
    })
}
