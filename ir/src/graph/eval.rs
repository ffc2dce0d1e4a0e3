//! What each operation means: [`eval_op`].

use super::interp::{Arg, InterpError, KvState, Tensor, fits};
use super::op::{Attr, OpKind};
use super::real::{Real, dot, each_chunk, matmul};
use super::round::rounded;
use super::types::Elem;
use super::{Graph, NodeId};
use half::bf16;
use std::borrow::Cow;

/// Evaluates the node `id` for operands in the order of the graph; `kv` is the cache if the op has one. A whole graph
/// runs in [`super::interp::Interp`]; by itself this serves tests of kernels.
pub fn eval_op<R: Real>(
    graph: &Graph,
    id: NodeId,
    args: &[Arg<'_, R>],
    kv: Option<&mut KvState<R>>,
) -> Result<Tensor<R>, InterpError> {
    let op = Op { graph, id, args };
    op.check().and_then(|()| op.eval(kv)).map_err(|message| {
        let node = graph.node(id);
        InterpError::Op { op: node.op.row().name, name: graph.value_name(id), message }
    })
}

struct Op<'a, R> {
    graph: &'a Graph,
    id: NodeId,
    args: &'a [Arg<'a, R>],
}

impl<'a, R: Real> Op<'a, R> {
    /// The operands are of the types that the graph gives them, all for the same number of tokens.
    fn check(&self) -> Result<(), String> {
        let operands = self.graph.operands(self.id);
        if operands.len() != self.args.len() {
            return Err(format!("{} operands for {}", self.args.len(), operands.len()));
        }
        let tokens = self.tokens();
        match operands.iter().zip(self.args).position(|(o, a)| !fits(self.graph.ty(*o), *a, tokens)) {
            Some(i) => Err(format!("operand {i} is no {} of {tokens} tokens", self.graph.ty(operands[i]))),
            None => Ok(()),
        }
    }

    fn tokens(&self) -> usize {
        let rows = |a: &Arg<'_, R>| match a {
            Arg::Value(Tensor::F { rows, .. } | Tensor::Q8 { rows, .. }) => Some(*rows),
            Arg::Value(Tensor::I32(v)) => Some(v.len()),
            _ => None,
        };
        self.args.iter().find_map(rows).unwrap_or(0)
    }

    fn arg(&self, role: &str) -> Option<Arg<'a, R>> {
        let node = self.graph.node(self.id);
        let row = node.op.row();
        let present = row.optional.iter().filter(|o| node.attrs.get(**o) == Some(&Attr::Bool(true)));
        let at = row.operands.iter().chain(present).position(|r| *r == role)?;
        self.args.get(at).copied()
    }

    fn weight(&self, role: &str) -> Option<&'a [f32]> {
        match self.arg(role) {
            Some(Arg::Weight(w)) => Some(w),
            _ => None,
        }
    }

    /// Elements and width of activations.
    fn rows(&self, role: &str) -> Result<(Vec<R>, usize), String> {
        match self.arg(role) {
            Some(Arg::Value(t @ (Tensor::F { width, .. } | Tensor::Q8 { width, .. }))) => Ok((t.floats(), *width)),
            _ => Err(format!("`{role}` is missing")),
        }
    }

    fn ints(&self, role: &str) -> Result<&'a [i32], String> {
        match self.arg(role) {
            Some(Arg::Value(Tensor::I32(v))) => Ok(v),
            _ => Err(format!("`{role}` is missing")),
        }
    }

    fn needed(&self, role: &str) -> Result<&'a [f32], String> {
        self.weight(role).ok_or_else(|| format!("`{role}` is missing"))
    }

    /// `x`, normed if there is a gamma.
    fn normed(&self) -> Result<(Vec<R>, usize), String> {
        let (mut x, width) = self.rows("x")?;
        if let Some(gamma) = self.weight("gamma") {
            rms_norm(&mut x, gamma, self.float("eps"));
        }
        Ok((x, width))
    }

    /// The rows that a product multiplies.
    fn factors(&self) -> Result<(Vec<R>, usize), String> {
        let (x, width) = self.normed()?;
        Ok(match self.graph.word(self.id, "round").as_str() {
            "none" => (x, width),
            to => (rounded(to, width, &x).floats(), width),
        })
    }

    /// The weights that a product multiplies: rounded with rows of bf16, else as they are.
    fn weights(&self, role: &str) -> Result<Cow<'a, [f32]>, String> {
        let w = self.needed(role)?;
        let x = self.graph.operand(self.id, "x").map(|x| &self.graph.ty(x).elem);
        Ok(match x {
            Some(Elem::BF16) => w.iter().map(|&w| bf16::from_f32(w).to_f32()).collect(),
            _ => Cow::Borrowed(w),
        })
    }

    fn float(&self, name: &str) -> R {
        R::of_f64(self.graph.float(self.id, name))
    }

    fn int(&self, name: &str) -> usize {
        self.graph.int(self.id, name) as usize
    }

    fn map(&self, f: impl Fn(R) -> R) -> Result<Tensor<R>, String> {
        let (x, width) = self.rows("x")?;
        Ok(Tensor::rows(width, x.into_iter().map(f).collect()))
    }

    fn eval(&self, kv: Option<&mut KvState<R>>) -> Result<Tensor<R>, String> {
        let finish = |width, data: Vec<R>| match self.graph.flag(self.id, "quantize") {
            true => rounded(&self.graph.word(self.id, "to"), width, &data),
            false => Tensor::rows(width, data),
        };
        Ok(match self.graph.node(self.id).op {
            OpKind::Input | OpKind::Weight => return Err("has no meaning by itself".into()),
            OpKind::Embed => {
                let table = self.needed("table")?;
                let width = self.graph.ty(self.id).width().unwrap_or(1) as usize;
                let mut out = vec![];
                for &t in self.ints("tokens")? {
                    let row = usize::try_from(t).ok().and_then(|t| table.chunks_exact(width).nth(t));
                    out.extend(row.ok_or_else(|| format!("token {t} is not in the table"))?.iter().map(|&v| R::of(v)));
                }
                Tensor::rows(width, out)
            }
            OpKind::RmsNorm => {
                let (mut x, width) = self.rows("x")?;
                rms_norm(&mut x, self.needed("gamma")?, self.float("eps"));
                Tensor::rows(width, x)
            }
            OpKind::Matmul => {
                let (x, n) = self.factors()?;
                let w = self.weights("w")?;
                let m = w.len() / n;
                let mut y = matmul(&x, &w, m, n);
                if let Some(bias) = self.weight("bias") {
                    y.chunks_exact_mut(m).for_each(|y| add_weight(y, bias));
                }
                if self.arg("residual").is_some() {
                    y.iter_mut().zip(self.rows("residual")?.0).for_each(|(y, r)| *y += r);
                }
                Tensor::rows(m, y)
            }
            OpKind::Add => {
                let (mut a, width) = self.rows("a")?;
                match self.weight("b") {
                    Some(b) => a.chunks_exact_mut(width).for_each(|a| add_weight(a, b)),
                    None => a.iter_mut().zip(self.rows("b")?.0).for_each(|(a, b)| *a += b),
                }
                Tensor::rows(width, a)
            }
            OpKind::Mul => {
                let ((a, width), (b, _)) = (self.rows("a")?, self.rows("b")?);
                Tensor::rows(width, a.into_iter().zip(b).map(|(a, b)| a * b).collect())
            }
            OpKind::Scale => {
                let by = self.float("by");
                self.map(|v| v * by)?
            }
            OpKind::Softcap => {
                let cap = self.float("cap");
                self.map(|v| softcap(v, cap))?
            }
            OpKind::Act => {
                let f = activation(&self.graph.word(self.id, "fn"));
                self.map(f)?
            }
            OpKind::Slice => {
                let (x, width) = self.rows("x")?;
                let (start, len) = (self.int("start"), self.int("len"));
                Tensor::rows(len, x.chunks_exact(width).flat_map(|x| &x[start..start + len]).copied().collect())
            }
            OpKind::RopeAngles => self.rope_angles()?,
            OpKind::Rope => {
                let (mut x, width) = self.rows("x")?;
                self.rotate(&mut x, width / self.int("heads").max(1))?;
                Tensor::rows(width, x)
            }
            OpKind::KvWrite => {
                let kv = kv.ok_or("there is no cache")?;
                let ((mut k, width), (v, _)) = (self.rows("k")?, self.rows("v")?);
                if let Some(gamma) = self.weight("k_norm") {
                    rms_norm(&mut k, gamma, self.float("eps"));
                }
                self.rotate(&mut k, kv.head_dim())?;
                for ((k, v), &p) in k.chunks_exact(width).zip(v.chunks_exact(width)).zip(self.ints("pos")?) {
                    if !usize::try_from(p).is_ok_and(|p| kv.write(p, k, v)) {
                        return Err(format!("position {p} does not follow the cache's {} rows", kv.rows()));
                    }
                }
                Tensor::Kv
            }
            OpKind::Attention => {
                let (mut q, width) = self.rows("q")?;
                let kv = kv.ok_or("there is no cache")?;
                if let Some(gamma) = self.weight("q_norm") {
                    rms_norm(&mut q, gamma, self.float("eps"));
                }
                self.rotate(&mut q, kv.head_dim())?;
                finish(width, self.attention(&q, width, kv)?)
            }
            OpKind::Quantize => {
                let (x, width) = self.normed()?;
                rounded(&self.graph.word(self.id, "to"), width, &x)
            }
            OpKind::Glu => {
                let (x, n) = self.factors()?;
                let (gate, up) = (self.weights("gate")?, self.weights("up")?);
                let m = gate.len() / n;
                let f = activation(&self.graph.word(self.id, "fn"));
                let pairs = matmul(&x, &gate, m, n).into_iter().zip(matmul(&x, &up, m, n));
                finish(m, pairs.map(|(g, u)| f(g) * u).collect())
            }
            OpKind::Argmax => {
                let (x, width) = self.rows("x")?;
                let first = |row: &[R]| (1..width).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as i32;
                Tensor::I32(x.chunks_exact(width).map(first).collect())
            }
        })
    }

    /// Angles are taken in f64: their error grows with the position.
    fn rope_angles(&self) -> Result<Tensor<R>, String> {
        let table = self.graph.rope.get(self.int("table")).ok_or("there is no such rope table")?;
        let mut out = vec![];
        for &p in self.ints("pos")? {
            let angle = |f: &f32| f64::from(p) * f64::from(*f);
            let scale = f64::from(table.scale);
            out.extend(table.inv_freq.iter().map(|f| R::of_f64(angle(f).cos() * scale)));
            out.extend(table.inv_freq.iter().map(|f| R::of_f64(angle(f).sin() * scale)));
        }
        Ok(Tensor::rows(2 * table.inv_freq.len(), out))
    }

    /// Rotates each head of `x` if the op has angles.
    fn rotate(&self, x: &mut [R], head_dim: usize) -> Result<(), String> {
        if self.arg("angles").is_none() {
            return Ok(());
        }
        let (angles, width) = self.rows("angles")?;
        let (r, tokens) = (width / 2, self.tokens());
        if 2 * r > head_dim || angles.len() != tokens * 2 * r {
            return Err(format!("{r} angles for heads of {head_dim}"));
        }
        let interleaved = self.graph.word(self.id, "style") == "interleaved";
        let row = x.len() / tokens.max(1);
        for (x, angles) in x.chunks_exact_mut(row.max(1)).zip(angles.chunks_exact((2 * r).max(1))) {
            let (cos, sin) = angles.split_at(r);
            for head in x.chunks_exact_mut(head_dim) {
                for i in 0..r {
                    let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + r) };
                    let (u, v) = (head[a], head[b]);
                    (head[a], head[b]) = (u * cos[i] - v * sin[i], v * cos[i] + u * sin[i]);
                }
            }
        }
        Ok(())
    }

    fn attention(&self, q: &[R], width: usize, kv: &KvState<R>) -> Result<Vec<R>, String> {
        let (heads, kv_heads, hd) = (self.int("heads"), kv.heads(), kv.head_dim());
        let (scale, cap, window) = (self.float("scale"), self.float("softcap"), self.int("window"));
        let pos = self.ints("pos")?;
        if heads * hd != width || !heads.is_multiple_of(kv_heads.max(1)) {
            return Err(format!("{heads} heads in rows of {width} for a cache of {kv_heads} heads of {hd}"));
        }
        if let Some(p) = pos.iter().find(|&&p| p < 0 || p as usize >= kv.rows()) {
            return Err(format!("position {p} is not in the cache of {} rows", kv.rows()));
        }
        let mut out = vec![R::default(); q.len()];
        each_chunk(&mut out, hd, q.len() * kv.rows(), |i, out| {
            let (token, head) = (i / heads, i % heads);
            let end = pos[token] as usize + 1;
            let start = if window > 0 { end.saturating_sub(window) } else { 0 };
            let at = |p: usize| (p * kv_heads + head / (heads / kv_heads)) * hd;
            let q = &q[i * hd..][..hd];
            let score = |p: usize| {
                let s = dot(q, &kv.keys()[at(p)..][..hd]) * scale;
                if cap > R::default() { softcap(s, cap) } else { s }
            };
            let mut p: Vec<R> = (start..end).map(score).collect();
            let max = p.iter().fold(p[0], |m, &s| if s > m { s } else { m });
            p.iter_mut().for_each(|s| *s = (*s - max).exp());
            let sum = p.iter().fold(R::default(), |a, &b| a + b);
            for (p, j) in p.iter().zip(start..end) {
                out.iter_mut().zip(&kv.values()[at(j)..][..hd]).for_each(|(o, &v)| *o += *p * v);
            }
            out.iter_mut().for_each(|o| *o = *o / sum);
        });
        Ok(out)
    }
}

fn add_weight<R: Real>(x: &mut [R], w: &[f32]) {
    x.iter_mut().zip(w).for_each(|(x, &w)| *x += R::of(w));
}

/// Norms each group of `gamma`'s length.
fn rms_norm<R: Real>(x: &mut [R], gamma: &[f32], eps: R) {
    let n = R::of_f64(gamma.len() as f64);
    for group in x.chunks_exact_mut(gamma.len()) {
        let rms = (dot(group, group) / n + eps).sqrt();
        group.iter_mut().zip(gamma).for_each(|(x, &g)| *x = *x / rms * R::of(g));
    }
}

fn softcap<R: Real>(x: R, cap: R) -> R {
    cap * (x / cap).tanh()
}

fn activation<R: Real>(name: &str) -> fn(R) -> R {
    match name {
        "gelu_tanh" => |x| {
            let inner = R::of_f64((2.0 / std::f64::consts::PI).sqrt()) * (x + R::of_f64(0.044715) * x * x * x);
            R::of(0.5) * x * (R::of(1.0) + inner.tanh())
        },
        _ => |x| x / (R::of(1.0) + (-x).exp()),
    }
}
