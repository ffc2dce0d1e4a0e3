//! Functions built from the op table, so that every back end has them without knowing them.

use super::{KernelBuilder, Pred, Scalar, Type, Value};

impl KernelBuilder {
    /// `e^x` in f32, any lanes; relative error below 3e-7 on [-87, 88], 0 below, saturates above.
    ///
    /// x = n ln2 + r with |r| <= ln2/2; e^r by its Taylor polynomial of degree 7 (next term < 6e-9), 2^n through the
    /// exponent field.
    pub fn exp(&mut self, x: Value) -> Value {
        let ty = self.ty(x);
        let c = |b: &mut Self, v: f64| b.float(ty, v);
        let (lo, hi) = (c(self, -87.3), c(self, 88.3));
        let x1 = self.fmax(x, lo);
        let xc = self.fmin(x1, hi);
        let log2e = c(self, std::f64::consts::LOG2_E);
        let t = self.mul(xc, log2e);
        let n = self.nearest(t);
        // ln2 in two parts, so that n * high is exact.
        let ln2_high = c(self, -0.693_359_375);
        let ln2_low = c(self, 2.121_944_4e-4);
        let r = self.fma(n, ln2_high, xc);
        let r = self.fma(n, ln2_low, r);
        let mut p = c(self, 1.0 / 5040.0);
        for k in [720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
            let k = c(self, 1.0 / k);
            p = self.fma(p, r, k);
        }
        let int = Type { scalar: Scalar::I32, lanes: ty.lanes };
        let n = self.f_to_int(n, Scalar::I32);
        let bias = self.int(int, 127);
        let n = self.add(n, bias);
        let count = self.int(Type::I32, 23);
        let bits = self.shl(n, count);
        let scale = self.bitcast(bits, ty);
        let y = self.mul(p, scale);
        let under = self.cmp(Pred::Slt, x, lo);
        let zero = c(self, 0.0);
        self.select(under, zero, y)
    }

    /// `1 / (1 + e^-x)`.
    pub fn sigmoid(&mut self, x: Value) -> Value {
        let ty = self.ty(x);
        let n = self.neg(x);
        let e = self.exp(n);
        let one = self.float(ty, 1.0);
        let d = self.add(one, e);
        self.div(one, d)
    }

    /// `tanh x = 2 sigmoid(2x) - 1`; absolute error below 3e-7.
    pub fn tanh(&mut self, x: Value) -> Value {
        let ty = self.ty(x);
        let two = self.float(ty, 2.0);
        let one = self.float(ty, 1.0);
        let x2 = self.mul(x, two);
        let s = self.sigmoid(x2);
        let s2 = self.mul(s, two);
        self.sub(s2, one)
    }

    /// `x * sigmoid(x)`.
    pub fn silu(&mut self, x: Value) -> Value {
        let s = self.sigmoid(x);
        self.mul(x, s)
    }

    /// GELU by its tanh form: `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    pub fn gelu_tanh(&mut self, x: Value) -> Value {
        let ty = self.ty(x);
        let x2 = self.mul(x, x);
        let k = self.float(ty, 0.044_715);
        let one = self.float(ty, 1.0);
        let p = self.fma(x2, k, one);
        let a = self.float(ty, 2.0 * (2.0 / std::f64::consts::PI).sqrt());
        let xa = self.mul(x, a);
        // (1 + tanh u) / 2 = sigmoid(2u)
        let u2 = self.mul(xa, p);
        let s = self.sigmoid(u2);
        self.mul(x, s)
    }
}
