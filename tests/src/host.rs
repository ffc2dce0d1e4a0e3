//! Runs a graph through schedules and kernels without an artifact: packs weights, lays out memory, calls the kernels of
//! a plan one after the other, in the interpreter or as machine code.
//!
//! What the differential tests compare with the graph interpreter.

use crate::quant::{layout, random_blocks};
use std::collections::HashMap;
use tilewright_codegen::backend::Backend;
use tilewright_codegen::jit::Jit;
use tilewright_codegen::lower::{LowerContext, Lowered, Packing, WeightMap, lower};
use tilewright_codegen::pack::{Layout, pack_panel};
use tilewright_codegen::schedules::{Params, Schedule, defaults};
use tilewright_codegen::target::Target;
use tilewright_ir::graph::interp::WeightSource;
use tilewright_ir::graph::{Dim, Graph, Weight};
use tilewright_ir::kernel::interp::{Pointer, Precision, run_at};
use tilewright_models::format::FormatSet;
use tilewright_runtime::plan::{Arg, KEY_BLOCK, ScalarArg};

/// Weights made up from a seed: random blocks of each weight's format.
#[derive(Default)]
pub struct RandomWeights {
    raw: HashMap<String, Vec<u8>>,
}

impl RandomWeights {
    /// Weights for all weight nodes of `graph`.
    pub fn for_graph(graph: &Graph, seed: u64) -> RandomWeights {
        let mut raw = HashMap::new();
        for (i, &n) in graph.order().iter().enumerate() {
            let Some(w) = graph.weight_of(n) else { continue };
            for part in &w.parts {
                raw.entry(part.tensor.clone()).or_insert_with(|| bytes(w, seed + i as u64));
            }
        }
        RandomWeights { raw }
    }

    /// The encoded rows of `weight`.
    pub fn rows(&self, weight: &Weight) -> Vec<u8> {
        let row = row_bytes(weight);
        weight
            .parts
            .iter()
            .flat_map(|p| {
                let at = p.rows.0 as usize * row;
                self.raw[&p.tensor][at..at + p.rows.1 as usize * row].to_vec()
            })
            .collect()
    }
}

fn dims(weight: &Weight) -> Vec<u64> {
    weight.ty.shape.iter().map(|d| if let Dim::N(n) = d { *n } else { 0 }).collect()
}

/// Bytes of a row, or of an element of a vector.
fn row_bytes(weight: &Weight) -> usize {
    let format = FormatSet::builtin().get(weight.format()).expect("a declared format");
    match dims(weight)[..] {
        [_, cols] => format.row_bytes(cols as usize).expect("whole blocks"),
        _ => 4,
    }
}

fn bytes(weight: &Weight, seed: u64) -> Vec<u8> {
    // A part may be a slice of a larger tensor: make as many rows as the farthest part needs.
    let rows = weight.parts.iter().map(|p| p.rows.0 + p.rows.1).max().unwrap_or(0) as usize;
    let size = rows * row_bytes(weight);
    if let Some(layout) = layout(weight.format()) {
        let format = FormatSet::builtin().get(weight.format()).expect("a declared format");
        return random_blocks(layout, size / format.bytes, seed);
    }
    let unit = |k: u64| uniform(seed, k) * 2.0 - 1.0;
    match weight.format() {
        "f32" => (0..size / 4).flat_map(|k| unit(k as u64).to_le_bytes()).collect(),
        "f16" => (0..size / 2).flat_map(|k| half::f16::from_f32(unit(k as u64)).to_le_bytes()).collect(),
        "bf16" => (0..size / 2).flat_map(|k| half::bf16::from_f32(unit(k as u64)).to_le_bytes()).collect(),
        // An exponent near 127, then 32 codes of 4 bits.
        "mxfp4" => (0..size)
            .map(
                |k| if k % 17 == 0 { 124 + (unit(k as u64) * 3.0) as u8 } else { (unit(k as u64) * 127.0) as i8 as u8 },
            )
            .collect(),
        other => panic!("no random weights of format {other}"),
    }
}

impl WeightSource for RandomWeights {
    fn load(&self, weight: &Weight) -> Result<Vec<f32>, String> {
        let raw = self.rows(weight);
        let format = FormatSet::builtin().get(weight.format()).ok_or("no such format")?;
        let n = dims(weight).iter().product::<u64>() as usize;
        let mut out = vec![0.0; n];
        format.dequantize(&raw, &mut out).map_err(|e| e.to_string())?;
        let mut at = 0;
        for p in &weight.parts {
            let len = n / dims(weight)[0] as usize * p.rows.1 as usize;
            out[at..at + len].iter_mut().for_each(|v| *v += p.add);
            at += len;
        }
        Ok(out)
    }
}

/// Where kernels run.
pub enum Engine {
    /// Kernel interpreter.
    Interp,
    /// A back end's machine code for a target.
    Jit(&'static dyn Backend, Target),
}

/// A graph ready to run for up to so many tokens.
pub struct Host {
    lowered: Lowered,
    engine: Engine,
    jit: Option<Jit>,
    kernels: Vec<tilewright_ir::kernel::Kernel>,
    buffers: Vec<Vec<u8>>,
    rope: Vec<(Vec<f32>, f32)>,
    capacity: usize,
    past: usize,
    width: usize,
}

const WEIGHTS: usize = 0;
const ARENA: usize = 1;
const TOKENS: usize = 2;
const FIXED: usize = 3;

impl Host {
    /// Lowers `graph`, whose first output is `[T, width]`, and packs its weights. `pick` chooses parameters.
    pub fn new(
        graph: &Graph,
        weights: &RandomWeights,
        tokens: u32,
        capacity: usize,
        engine: Engine,
        pick: &dyn Fn(&dyn Schedule) -> Params,
    ) -> Result<Host, String> {
        let layouts = |name: &str| FormatSet::builtin().get(name).map(|f| Layout::of(f));
        let mut map = WeightMap::default();
        let cx = LowerContext { layout: &layouts, params: pick, terms: None };
        let lowered = lower(graph, tokens, &mut map, &cx).map_err(|e| e.to_string())?;
        let mut packed = vec![0u8; map.bytes as usize];
        for e in &map.entries {
            let raw = weights.rows(&e.weight);
            let out = &mut packed[e.offset as usize..][..e.bytes as usize];
            match &e.packing {
                Packing::Vector => {
                    let dense = weights.load(&e.weight)?;
                    out[..dense.len() * 4].copy_from_slice(bytemuck::cast_slice(&dense));
                }
                Packing::Panels(l) => {
                    let format = FormatSet::builtin().get(e.weight.format()).ok_or("no such format")?;
                    let cols = e.weight.ty.width().unwrap_or(0);
                    for (i, panel) in out.chunks_exact_mut(l.panel_bytes(cols) as usize).enumerate() {
                        pack_panel(format, l, &raw, cols, i as u64, panel).map_err(|e| e.to_string())?;
                    }
                }
            }
        }
        let kernels: Vec<_> =
            lowered.calls.iter().enumerate().map(|(i, c)| c.schedule.build(&format!("k{i}"), &c.params)).collect();
        for k in &kernels {
            tilewright_ir::kernel::verify(k).map_err(|e| format!("{}: {e:?}", k.name))?;
        }
        let jit = match &engine {
            Engine::Interp => None,
            Engine::Jit(backend, target) => Some(Jit::compile(*backend, &kernels, target).map_err(|e| e.to_string())?),
        };
        let capacity = capacity.next_multiple_of(KEY_BLOCK as usize);
        let mut kv = vec![];
        for &n in graph.order() {
            let node = graph.node(n);
            if let ([Dim::N(h), Dim::N(d)], tilewright_ir::graph::Elem::Kv, tilewright_ir::graph::OpKind::Input) =
                (&node.ty.shape[..], &node.ty.elem, node.op)
            {
                kv.push((*h * *d) as usize * capacity * 2);
            }
        }
        // Fresh activations hold NaN: a kernel that reads what nobody wrote is found out.
        let arena = vec![0xff; lowered.arena_bytes as usize];
        let mut buffers = vec![packed, arena, vec![0; tokens as usize * 4]];
        for bytes in kv {
            buffers.push(vec![0xff; bytes]);
            buffers.push(vec![0xff; bytes]);
        }
        let rope: Vec<_> = graph.rope.iter().map(|r| (r.inv_freq.clone(), r.scale)).collect();
        buffers.extend(rope.iter().map(|r| vec![0; r.0.len() * 8 * tokens as usize]));
        let width = graph.outputs().first().and_then(|&o| graph.ty(o).width()).unwrap_or(1) as usize;
        Ok(Host { lowered, engine, jit, kernels, buffers, rope, capacity, past: 0, width })
    }

    /// Runs `tokens` after those before; the rows of the first output.
    pub fn run(&mut self, tokens: &[u32]) -> Result<Vec<f32>, String> {
        let kv_end = self.buffers.len() - self.rope.len();
        self.buffers[TOKENS][..tokens.len() * 4].copy_from_slice(bytemuck::cast_slice(tokens));
        for (i, (inv, scale)) in self.rope.iter().enumerate() {
            let mut table = vec![];
            for t in 0..tokens.len() {
                let angles = inv.iter().map(|&f| (self.past + t) as f64 * f64::from(f));
                table.extend(angles.clone().map(|a| (a.cos() * f64::from(*scale)) as f32));
                table.extend(angles.map(|a| (a.sin() * f64::from(*scale)) as f32));
            }
            self.buffers[kv_end + i][..table.len() * 4].copy_from_slice(bytemuck::cast_slice(&table));
        }
        for (call, kernel) in self.lowered.calls.iter().zip(&self.kernels) {
            let pointers: Vec<Pointer> = call
                .args
                .iter()
                .map(|a| match *a {
                    Arg::Weights(o) => Pointer { buffer: WEIGHTS, offset: o as usize },
                    Arg::Arena(o) => Pointer { buffer: ARENA, offset: o as usize },
                    Arg::Tokens => Pointer { buffer: TOKENS, offset: 0 },
                    Arg::K(i) => Pointer { buffer: FIXED + 2 * i as usize, offset: 0 },
                    Arg::V(i) => Pointer { buffer: FIXED + 2 * i as usize + 1, offset: 0 },
                    Arg::Rope(i) => Pointer { buffer: kv_end + i as usize, offset: 0 },
                    other => unreachable!("{other:?} is for a GPU"),
                })
                .collect();
            let scalars: Vec<i64> = call
                .scalars
                .iter()
                .map(|s| match *s {
                    ScalarArg::Const(c) => c,
                    ScalarArg::Tokens => tokens.len() as i64,
                    ScalarArg::Past => self.past as i64,
                    ScalarArg::Capacity => self.capacity as i64,
                })
                .collect();
            // Backwards: the order of chunks must not matter.
            for chunk in (0..call.schedule.chunks(&call.params)).rev() {
                match &self.jit {
                    None => run_at(kernel, Precision::F32, &mut self.buffers, &pointers, &scalars, i64::from(chunk))
                        .map_err(|e| format!("{}: {e}", call.label))?,
                    Some(jit) => {
                        let ptrs: Vec<*mut u8> =
                            pointers.iter().map(|p| self.buffers[p.buffer][p.offset..].as_mut_ptr()).collect();
                        // SAFETY: the same kernel and arguments run in the interpreter, which checks every access.
                        unsafe { jit.call(&kernel.name, &ptrs, &scalars, i64::from(chunk)) }
                            .map_err(|e| e.to_string())?;
                    }
                }
            }
        }
        self.past += tokens.len();
        let (offset, stride) = self.lowered.output;
        Ok((0..tokens.len())
            .flat_map(|t| {
                let at = offset as usize + t * stride as usize;
                let row = &self.buffers[ARENA][at..at + self.width * 4];
                row.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<_>>()
            })
            .collect())
    }

    /// Forgets all positions from `position` on; what is in the cache stays there.
    pub fn truncate(&mut self, position: usize) {
        self.past = self.past.min(position);
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

/// The default of every parameter.
pub fn default_params(s: &dyn Schedule) -> Params {
    defaults(&s.space())
}

/// The `k`-th number of stream `seed`, in [0, 1).
fn uniform(seed: u64, k: u64) -> f32 {
    let h = crate::tiny::splitmix64(crate::tiny::splitmix64(seed).wrapping_add(k));
    (h >> 40) as f32 / (1u32 << 24) as f32
}
