//! Random well-formed graphs, and weights for them, from a seed: food for differential tests.
//!
//! ```
//! use tilewright_ir::graph::interp::Interp;
//! use tilewright_ir::graph::random::{RandomWeights, random_graph};
//! let g = random_graph(7);
//! let outputs = Interp::<f64>::new(&g, &RandomWeights { seed: 7 }).unwrap().run(&[1, 2, 3]).unwrap();
//! assert_eq!(outputs.len(), g.outputs().len());
//! ```
//!
//! Graphs are small transformers whose parts vary as those of real families do, and are at times spoilt on purpose:
//! values with a second user, an intermediate result as output, rotation before the norm of the heads, the same
//! product twice. All weights are f32, and no op is a fused one.

use super::interp::WeightSource;
use super::{ACTIVATIONS, Attrs, Dim, Elem, Graph, NodeId, OpKind, ROPE_STYLES, RopeSpec, TensorType, Weight, attrs};

/// Number of tokens that random graphs know.
pub const VOCAB: u64 = 37;

/// Weights made up from the names of their tensors: the same tensor has the same rows in any graph, whatever its format.
#[derive(Clone, Copy, Debug)]
pub struct RandomWeights {
    /// Other seeds give other weights.
    pub seed: u64,
}

impl WeightSource for RandomWeights {
    fn load(&self, weight: &Weight) -> Result<Vec<f32>, String> {
        let is_matrix = weight.ty.shape.len() == 2;
        let width = if is_matrix { weight.ty.width().unwrap_or(1) } else { 1 };
        let mut out = vec![];
        for p in &weight.parts {
            let name = p.tensor.bytes().fold(self.seed, |h, b| Rng(h ^ u64::from(b)).next());
            for row in p.rows.0..p.rows.0 + p.rows.1 {
                let mut rng = Rng(name ^ Rng(row).next());
                // Products keep the size of their input; vectors are factors near 1.
                let (middle, spread) = if is_matrix { (0.0, (3.0 / width as f32).sqrt()) } else { (1.0, 0.5) };
                out.extend((0..width).map(|_| middle + spread * (2.0 * rng.unit() - 1.0) + p.add));
            }
        }
        Ok(out)
    }
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[(self.next() % choices.len() as u64) as usize]
    }

    /// True in `percent` of 100 cases.
    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// A graph; equal seeds give equal graphs.
pub fn random_graph(seed: u64) -> Graph {
    let mut rng = Rng(seed);
    let mut g = Graph::new(format!("random{seed}"));
    let head_dim = rng.pick(&[8, 16, 32]);
    let kv_heads = rng.pick(&[1, 2, 3]);
    let style = rng.pick(ROPE_STYLES);
    let is_partial = rng.chance(25);
    for table in 0..rng.pick(&[1, 1, 2]) {
        let pairs = if is_partial { head_dim / 4 } else { head_dim / 2 };
        let base = rng.pick(&[10.0f32, 100.0, 10000.0]);
        let inv_freq = (0..pairs).map(|i| base.powf(-(i as f32) / pairs as f32)).collect();
        g.rope.push(RopeSpec { inv_freq, scale: if table == 1 { 1.25 } else { 1.0 } });
    }
    let tokens = g.input("tokens", TensorType::new(Elem::I32, [Dim::T]));
    let pos = g.input("pos", TensorType::new(Elem::I32, [Dim::T]));
    let config = Config {
        width: rng.pick(&[32, 64, 96]),
        hidden: rng.pick(&[32, 64, 160]),
        heads: kv_heads * rng.pick(&[1, 2, 3]),
        kv_heads,
        head_dim,
        style,
        act: rng.pick(ACTIVATIONS),
        eps: rng.pick(&[1e-5, 1e-6, 1e-2]),
        has_bias: rng.chance(40),
        has_qk_norm: rng.chance(40),
        has_post_norm: rng.chance(30),
        is_qkv_one: rng.chance(30),
        is_gate_up_one: rng.chance(30),
        softcap: rng.pick(&[0.0, 0.0, 5.0]),
    };
    let mut b = Builder { g, rng, c: config, pos, spare: vec![] };
    b.model(tokens);
    b.g
}

/// What all layers of a graph have in common.
struct Config {
    width: u64,
    hidden: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    style: &'static str,
    act: &'static str,
    eps: f64,
    has_bias: bool,
    has_qk_norm: bool,
    has_post_norm: bool,
    is_qkv_one: bool,
    is_gate_up_one: bool,
    softcap: f64,
}

struct Builder {
    g: Graph,
    rng: Rng,
    c: Config,
    pos: NodeId,
    /// Values that get a second user at the end.
    spare: Vec<NodeId>,
}

impl Builder {
    fn push(&mut self, op: OpKind, operands: &[NodeId], attrs: Attrs) -> NodeId {
        let id = self.g.push(op, operands, attrs).expect("the generator knows the rules");
        if self.rng.chance(2) && self.g.ty(id).elem == Elem::F32 && self.g.ty(id).shape.len() == 2 {
            self.spare.push(id);
        }
        id
    }

    fn weight(&mut self, name: &str, shape: &[u64]) -> NodeId {
        self.g.weight(Weight::of(name, "f32", shape))
    }

    fn norm(&mut self, x: NodeId, name: &str, n: u64) -> NodeId {
        let gamma = self.weight(name, &[n]);
        self.push(OpKind::RmsNorm, &[x, gamma], attrs([("eps", self.c.eps.into())]))
    }

    fn matmul(&mut self, x: NodeId, name: &str, m: u64, has_bias: bool) -> NodeId {
        let n = self.g.ty(x).width().unwrap_or(1);
        let w = self.weight(name, &[m, n]);
        let y = self.push(OpKind::Matmul, &[x, w], attrs([]));
        if !has_bias {
            return y;
        }
        let bias = self.weight(&format!("{name}.bias"), &[m]);
        self.push(OpKind::Add, &[y, bias], attrs([]))
    }

    fn slices(&mut self, x: NodeId, lens: &[u64]) -> Vec<NodeId> {
        let mut start = 0;
        let mut slice = |len: u64| {
            let attrs = attrs([("start", (start as i64).into()), ("len", (len as i64).into())]);
            start += len;
            self.push(OpKind::Slice, &[x], attrs)
        };
        lens.iter().map(|&l| slice(l)).collect()
    }

    /// Sum or product, either way round.
    fn pair(&mut self, op: OpKind, a: NodeId, b: NodeId) -> NodeId {
        let operands = if self.rng.chance(50) { [a, b] } else { [b, a] };
        self.push(op, &operands, attrs([]))
    }

    fn model(&mut self, tokens: NodeId) {
        let width = self.c.width;
        let table = self.weight("token_embd", &[VOCAB, width]);
        let mut x = self.push(OpKind::Embed, &[tokens, table], attrs([]));
        if self.rng.chance(25) {
            x = self.push(OpKind::Scale, &[x], attrs([("by", f64::from(width as u32).sqrt().into())]));
        }
        let angles: Vec<NodeId> = (0..self.g.rope.len() as i64)
            .map(|t| self.g.push(OpKind::RopeAngles, &[self.pos], attrs([("table", t.into())])))
            .map(|n| n.expect("positions have angles"))
            .collect();
        let is_parallel = self.rng.chance(15);
        for layer in 0..self.rng.pick(&[1, 2, 3]) {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let n = self.norm(x, &name("attn_norm"), width);
            let a = self.attention(n, layer, &angles);
            let a = if self.c.has_post_norm { self.norm(a, &name("post_attn_norm"), width) } else { a };
            let before = x;
            x = self.pair(OpKind::Add, x, a);
            let from = if is_parallel { before } else { x };
            let n = self.norm(from, &name("ffn_norm"), width);
            let f = self.feed_forward(n, layer);
            let f = if self.c.has_post_norm { self.norm(f, &name("post_ffn_norm"), width) } else { f };
            x = self.pair(OpKind::Add, x, f);
        }
        let n = self.norm(x, "output_norm", width);
        let head = if self.rng.chance(50) { "token_embd" } else { "output" };
        let mut logits = self.matmul(n, head, VOCAB, false);
        if self.rng.chance(25) {
            logits = self.push(OpKind::Softcap, &[logits], attrs([("cap", 3.0.into())]));
        }
        let mut outputs = vec![logits];
        if self.rng.chance(25) {
            outputs.push(self.push(OpKind::Argmax, &[logits], attrs([])));
        }
        for s in std::mem::take(&mut self.spare) {
            outputs.push(if self.rng.chance(50) { s } else { self.push(OpKind::Act, &[s], attrs([])) });
        }
        self.g.set_outputs(&outputs);
    }

    fn attention(&mut self, n: NodeId, layer: usize, angles: &[NodeId]) -> NodeId {
        let Config { width, heads, kv_heads, head_dim: hd, has_bias, has_qk_norm, is_qkv_one, .. } = self.c;
        let name = |part: &str| format!("blk.{layer}.attn_{part}");
        let qkv = if is_qkv_one {
            let all = self.matmul(n, &name("qkv"), (heads + 2 * kv_heads) * hd, has_bias);
            self.slices(all, &[heads * hd, kv_heads * hd, kv_heads * hd])
        } else {
            let parts = [("q", heads), ("k", kv_heads), ("v", kv_heads)];
            parts.map(|(p, heads)| self.matmul(n, &name(p), heads * hd, has_bias)).to_vec()
        };
        let angles = self.rng.pick(angles);
        let has_rope = self.rng.chance(90);
        let is_norm_first = self.rng.chance(85);
        let mut prepare = |mut x: NodeId, part: &str, heads: u64| {
            for step in [is_norm_first, !is_norm_first] {
                if step && has_qk_norm {
                    x = self.norm(x, &name(part), hd);
                } else if !step && has_rope {
                    let rope = attrs([("heads", (heads as i64).into()), ("style", self.c.style.into())]);
                    x = self.push(OpKind::Rope, &[x, angles], rope);
                }
            }
            x
        };
        let q = prepare(qkv[0], "q_norm", heads);
        let k = prepare(qkv[1], "k_norm", kv_heads);
        let kv_type = TensorType::new(Elem::Kv, [Dim::N(kv_heads), Dim::N(hd)]);
        let kv = self.g.input(&format!("kv.{layer}"), kv_type);
        let kv = self.push(OpKind::KvWrite, &[kv, k, qkv[2], self.pos], attrs([]));
        let window = self.rng.pick(&[0i64, 0, 2, 5]);
        let how = attrs([
            ("heads", (heads as i64).into()),
            ("scale", (1.0 / f64::from(hd as u32).sqrt()).into()),
            ("window", window.into()),
            ("softcap", self.c.softcap.into()),
        ]);
        let a = self.push(OpKind::Attention, &[q, kv, self.pos], how);
        self.matmul(a, &name("output"), width, false)
    }

    fn feed_forward(&mut self, n: NodeId, layer: usize) -> NodeId {
        let Config { width, hidden, act, is_gate_up_one, .. } = self.c;
        let name = |part: &str| format!("blk.{layer}.ffn_{part}");
        let (gate, up) = if is_gate_up_one {
            let both = self.matmul(n, &name("gate_up"), 2 * hidden, false);
            let parts = self.slices(both, &[hidden, hidden]);
            (parts[0], parts[1])
        } else {
            let has_bias = self.rng.chance(10);
            // Sometimes the gate's product is there twice.
            let gate = if self.rng.chance(10) { "up" } else { "gate" };
            (self.matmul(n, &name(gate), hidden, has_bias), self.matmul(n, &name("up"), hidden, false))
        };
        let a = self.push(OpKind::Act, &[gate], attrs([("fn", act.into())]));
        let h = self.pair(OpKind::Mul, a, up);
        self.matmul(h, &name("down"), width, self.c.has_bias)
    }
}

#[cfg(test)]
mod tests {
    use super::super::interp::{Interp, Tensor};
    use super::super::{parse, verify};
    use super::*;

    #[test]
    fn random_graphs_verify_and_keep_their_text() {
        for seed in 0..200 {
            let g = random_graph(seed);
            verify(&g).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            let text = g.to_string();
            let again = parse(&text).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
            assert_eq!(again.to_string(), text, "seed {seed}");
        }
    }

    #[test]
    fn f32_is_near_f64_and_chunks_equal_one_run() {
        for seed in 0..40 {
            let (g, weights) = (random_graph(seed), RandomWeights { seed });
            let tokens: Vec<u32> = (0..9).map(|i| (i * 7 + seed as u32) % VOCAB as u32).collect();
            let mut narrow = Interp::<f32>::new(&g, &weights).unwrap();
            let whole = narrow.run(&tokens).unwrap();
            let wide = Interp::<f64>::new(&g, &weights).unwrap().run(&tokens).unwrap();
            let (a, b) = (whole[0].floats(), wide[0].floats());
            let size = b.iter().map(|v| v * v).sum::<f64>();
            let error = a.iter().zip(&b).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>();
            assert!(size > 0.0 && error < 1e-5 * size, "seed {seed}: {error} of {size}");
            // Steps of 4 and 1 after a false start.
            narrow.truncate(0);
            narrow.run(&[3, 4]).unwrap();
            narrow.truncate(0);
            let mut joined = vec![];
            for chunk in [&tokens[..4], &tokens[4..5], &tokens[5..]] {
                match &narrow.run(chunk).unwrap()[0] {
                    Tensor::F { data, .. } => joined.extend_from_slice(data),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(joined, a, "seed {seed}");
        }
    }
}
