//! The pipeline, stage by stage.

use crate::choices::choices;
use crate::records::{Chooser, Chosen};
use crate::tune::Operation;
use crate::{DriverError, TuneMode};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tilewright_codegen::backend::{self, Backend};
use tilewright_codegen::lower::{LowerContext, Lowered, LoweredCall, PackedWeight, Packing, WeightMap, lower};
use tilewright_codegen::pack::{Layout, Order, PackError, pack_panel};
use tilewright_codegen::ptx::{self, assembler::Assembler};
use tilewright_codegen::schedules::gpu::FEW;
use tilewright_codegen::schedules::{Schedule, defaults};
use tilewright_codegen::target::{PrefillActivations, Target};
use tilewright_ir::graph::{Elem, Graph, OpKind};
use tilewright_ir::kernel::Kernel;
use tilewright_models::arch::Reading;
use tilewright_models::format::{BlockFormat, FormatSet};
use tilewright_models::model::{Hyper, Model, ModelError};
use tilewright_passes::{Activations, PassContext, PassManager, Report};
use tilewright_runtime::artifact::{
    ArtifactWriter, CHAT_TEMPLATE, Choice, GRAPH, KERNELS, KERNELS_PTX, ManifestInfo, ModelIdentity, SourceFile,
    TOKENIZER, TargetInfo, TokenizerFacts, cubin_of, kernels_of,
};
use tilewright_runtime::cuda::DeviceFacts;
use tilewright_runtime::plan::{Call, KvLayer, Launch, ModelFacts, Plan, Program, RopeTable};

/// What to build for.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// The machine.
    pub target: Target,
    /// Activations of matmuls with block formats. `Bf16` is for products of many tokens; decode keeps int8 blocks.
    pub activations: Activations,
    /// Fusions that are switched off, by pass name.
    pub off: BTreeSet<String>,
    /// Most tokens of a prefill step.
    pub prefill_tokens: u32,
    /// Longest context to run; `None` for the model's. A few models turn their rotary tables differently when compiled
    /// for long contexts.
    pub ctx: Option<u32>,
    /// Passes after which the graph is dumped: `all`, or `after:<pass>`.
    pub dump: Option<String>,
    /// What to do about records of tuning.
    pub tune: TuneMode,
    /// Whether an operation without a record is an error.
    pub frozen: bool,
    /// Folder of the records, and of machine code that was assembled before; without one there is neither.
    pub records: Option<PathBuf>,
    /// Threads that the kernels are meant for: records are of a number of threads. Any number can run them.
    pub threads: u32,
    /// For a GPU, the device whose records hold; without one those of any device do.
    pub gpu: Option<DeviceFacts>,
    /// What makes machine code for a GPU ahead of time; without one artifacts have PTX alone.
    pub assembler: Option<Assembler>,
}

impl BuildOptions {
    /// Defaults for this machine.
    pub fn for_host() -> Result<BuildOptions, DriverError> {
        Ok(BuildOptions::for_target(Target::detect()?))
    }

    /// Defaults for that machine.
    pub fn for_target(target: Target) -> BuildOptions {
        let activations = match target.prefill_activations {
            _ if target.gpu().is_some() => Activations::F16,
            PrefillActivations::Q8 => Activations::Q8,
            PrefillActivations::Bf16 => Activations::Bf16,
        };
        let prefill_tokens = if target.gpu().is_some() { 512 } else { 128 };
        BuildOptions {
            target,
            activations,
            off: BTreeSet::new(),
            prefill_tokens,
            ctx: None,
            dump: None,
            tune: TuneMode::default(),
            frozen: false,
            records: None,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            gpu: None,
            assembler: None,
        }
    }

    /// Defaults for a target by name, with the assembler that is installed; `cuda` is the GPU of this machine.
    pub fn named(name: &str) -> Result<BuildOptions, DriverError> {
        let (target, gpu) = crate::target::find(name)?;
        let assembler = target.gpu().and_then(|_| Assembler::find());
        Ok(BuildOptions { gpu, assembler, ..BuildOptions::for_target(target) })
    }

    /// The programs by rising tokens: decoding; a few tokens (drafts, the end of a prompt), which read the weights as rarely
    /// but should not pay for many; prefill.
    ///
    /// On a CPU, few tokens have nothing to gain from expanded weights. On a GPU, every block can norm and round the rows of a
    /// few tokens itself.
    fn programs(&self) -> Vec<ProgramKind> {
        let most = self.prefill_tokens;
        let (few, some) = match (self.target.gpu().is_some(), self.activations) {
            (true, kind) => (kind, vec![1, FEW, 64]),
            (false, Activations::Bf16) => (Activations::Q8, vec![1, 4]),
            (false, kind) => (kind, vec![1, 4]),
        };
        let few_tokens = |tokens: u32| self.target.gpu().is_some() && tokens <= FEW;
        let kind = |tokens: u32, activations| ProgramKind { tokens, activations, few_tokens: few_tokens(tokens) };
        let mut programs: Vec<ProgramKind> = some.into_iter().filter(|&n| n < most).map(|n| kind(n, few)).collect();
        programs.push(kind(most, if most == 1 { few } else { self.activations }));
        programs
    }

    /// For a GPU, the terms of f16 that stand for an f32; an error if the activations are for other machines.
    fn terms(&self) -> Result<Option<u64>, DriverError> {
        match (self.target.gpu().is_some(), self.activations) {
            (true, Activations::F16) => Ok(Some(1)),
            (true, Activations::F16Pair) => Ok(Some(2)),
            (false, Activations::F16 | Activations::F16Pair) | (true, _) => Err(DriverError::Activations {
                activations: format!("{:?}", self.activations).to_lowercase(),
                target: self.target.name.clone(),
            }),
            (false, _) => Ok(None),
        }
    }

    /// How the weights of that format are packed.
    fn layout(&self, format: &str) -> Option<Result<Layout, PackError>> {
        let order = if self.target.gpu().is_some() { Order::Fragments } else { Order::Panels };
        FormatSet::builtin().get(format).map(|f| Layout::in_order(f, order))
    }

    /// Text of everything but the records that changes the result, for cache keys.
    pub fn key(&self) -> Result<String, DriverError> {
        let BuildOptions { target, activations, off, prefill_tokens, ctx, .. } = self;
        let assembler = crate::cubins::key(self.assembler.as_ref().filter(|_| target.gpu().is_some()))?;
        Ok(format!("{} {activations:?} off{off:?} prefill{prefill_tokens} ctx{ctx:?}{assembler}", target.name))
    }
}

/// A program, before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProgramKind {
    tokens: u32,
    activations: Activations,
    few_tokens: bool,
}

impl ProgramKind {
    /// Programs of which this is the same have one graph.
    fn graph(self) -> (Activations, bool) {
        (self.activations, self.few_tokens)
    }
}

/// A stage that begins, or bytes of weights that were packed.
#[derive(Clone, Debug)]
pub enum Progress<'a> {
    /// A stage by name.
    Stage(&'a str),
    /// Packed so many of so many bytes.
    Packed(u64, u64),
    /// An operation was tuned: a call of it, and how many times faster it is now.
    Tuned(&'a str, f64),
    /// Something was ignored that the user should know of.
    Warning(&'a str),
}

/// What a build did.
#[derive(Clone, Debug)]
pub struct BuildReport {
    /// Passes: rewrites and times.
    pub passes: Report,
    /// Distinct kernels.
    pub kernels: usize,
    /// Bytes of machine code with headers.
    pub object_bytes: usize,
    /// Bytes of packed weights.
    pub weights_bytes: u64,
    /// Identity of the artifact.
    pub digest: String,
}

/// Everything but the packed weights: what `build` writes and what `explain` and `inspect` show.
pub struct Compiled {
    /// The fused graph of each program; one if they are the same. The artifact has the first.
    pub graphs: Vec<Graph>,
    /// Passes on the first graph: rewrites and times.
    pub passes: Report,
    /// The plan.
    pub plan: Plan,
    /// The kernels of [`Plan::kernels`], in that order.
    pub kernels: Vec<Kernel>,
    /// The machine code by file name: objects for a CPU; for a GPU PTX, and what an assembler made of it.
    pub objects: Vec<(String, Vec<u8>)>,
    /// Where each weight goes.
    pub weights: WeightMap,
    /// What was chosen, and why.
    pub choices: Vec<Choice>,
}

fn takes_q8(name: &str) -> bool {
    matches!(FormatSet::builtin().get(name).map(|f| Layout::of(f)), Some(Ok(l)) if l.takes_q8())
}

/// Kernels without duplicates: equal schedule, parameters and back end, equal kernel.
struct KernelTable<'a> {
    target: &'a Target,
    index: HashMap<String, u32>,
    names: Vec<String>,
    made: Vec<(Rc<Chosen>, &'static dyn Backend)>,
    kernels: Vec<Kernel>,
}

impl KernelTable<'_> {
    fn new(target: &Target) -> KernelTable<'_> {
        KernelTable { target, index: HashMap::new(), names: vec![], made: vec![], kernels: vec![] }
    }

    fn intern(&mut self, label: &str, schedule: &dyn Schedule, chosen: Rc<Chosen>) -> Result<u32, DriverError> {
        let key = schedule.signature();
        if let Some(&i) = self.index.get(&key) {
            return Ok(i);
        }
        let i = self.names.len() as u32;
        let op = label.split(' ').next().unwrap_or("kernel");
        let name = format!("k{i}_{op}");
        let kernel = schedule.build(&name, &chosen.params);
        if let Err(errors) = tilewright_ir::kernel::verify(&kernel) {
            return Err(DriverError::Kernel { name, message: errors.to_string() });
        }
        let backend = chosen.backend.map_or_else(|| backend::default_for(&kernel, self.target), Ok)?;
        self.kernels.push(kernel);
        self.names.push(name);
        self.made.push((chosen, backend));
        self.index.insert(key, i);
        Ok(i)
    }

    /// How the kernels of a GPU are launched.
    fn launches(&self) -> Vec<Launch> {
        let of = |kernel| ptx::launch(kernel, self.target);
        if self.target.gpu().is_some() { self.kernels.iter().map(of).collect() } else { vec![] }
    }

    /// One file for each back end that has kernels: for a CPU objects, the first of them `kernels.o`.
    fn objects(&self) -> Result<Vec<(String, Vec<u8>)>, DriverError> {
        let mut out = vec![];
        for backend in backend::all() {
            let of_backend = self.kernels.iter().zip(&self.made).filter(|(_, m)| m.1.name() == backend.name());
            let kernels: Vec<Kernel> = of_backend.map(|(k, _)| k.clone()).collect();
            if kernels.is_empty() {
                continue;
            }
            let file = match (self.target.gpu(), out.is_empty()) {
                (Some(_), _) => KERNELS_PTX.to_string(),
                (None, true) => KERNELS.to_string(),
                (None, false) => kernels_of(backend.name()),
            };
            out.push((file, backend.object(&kernels, self.target)?));
        }
        Ok(out)
    }
}

/// The fused graph of each program, and what the passes did to the first. Equal programs share a graph.
fn fused(
    reading: &Reading,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(Vec<Graph>, Report, u64), DriverError> {
    let longest = reading.size("n_ctx");
    let ctx = options.ctx.map_or(longest, |ctx| longest.min(ctx.into()));
    let (mut graphs, mut report) = (vec![], None);
    let mut kinds: Vec<(Activations, bool)> = options.programs().into_iter().map(ProgramKind::graph).collect();
    kinds.dedup();
    for (activations, few_tokens) in kinds {
        progress(Progress::Stage("graph"));
        let mut graph = reading.graph(ctx).map_err(ModelError::from)?;
        progress(Progress::Stage("passes"));
        let cx = PassContext { activations, takes_q8: &takes_q8, few_tokens };
        let manager = PassManager { off: options.off.clone(), dump: options.dump.clone(), verify: true, context: cx };
        let passes = manager.run(&mut graph)?;
        report.get_or_insert(passes);
        graphs.push(graph);
    }
    Ok((graphs, report.unwrap_or_default(), ctx))
}

/// The programs with their graphs; those of few tokens, which come first, have the first.
fn programs<'a>(options: &BuildOptions, graphs: &'a [Graph]) -> impl Iterator<Item = (u32, &'a Graph)> {
    let programs = options.programs();
    let few = programs[0].graph();
    programs.into_iter().map(move |p| (p.tokens, &graphs[if p.graph() == few { 0 } else { graphs.len() - 1 }]))
}

/// The distinct operations of all programs.
pub(crate) fn operations(model: &Model, options: &BuildOptions) -> Result<Vec<Operation>, DriverError> {
    operations_of(model.reading(), options)
}

/// The distinct operations of all programs, for a model that need not have a file of weights.
pub fn operations_of(reading: &Reading, options: &BuildOptions) -> Result<Vec<Operation>, DriverError> {
    let (graphs, ..) = fused(reading, options, &mut |_| {})?;
    let params = |s: &dyn Schedule| defaults(&s.space());
    let layout = |format: &str| options.layout(format);
    let cx = LowerContext { layout: &layout, params: &params, terms: options.terms()? };
    let mut weights = WeightMap::default();
    let mut out: Vec<Operation> = vec![];
    let mut index: HashMap<String, usize> = HashMap::new();
    for (tokens, graph) in programs(options, &graphs) {
        for call in lower(graph, tokens, &mut weights, &cx)?.calls {
            let key = call.schedule.signature();
            let i = *index.entry(key).or_insert_with(|| {
                out.push(Operation { label: call.label, tokens, calls: 0, schedule: call.schedule });
                out.len() - 1
            });
            out[i].calls += 1;
        }
    }
    Ok(out)
}

/// Runs every stage but the packing of weights.
pub fn compile(
    model: &Model,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Compiled, DriverError> {
    let options = &crate::tune::missing(model, options, progress)?;
    compile_reading(model.name(), model.reading(), model.hyper().file_bytes, options, progress)
}

/// [`compile`] for a model that need not have a file of weights. Nothing is tuned for it.
pub fn compile_reading(
    name: &str,
    reading: &Reading,
    file_bytes: u64,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Compiled, DriverError> {
    let (graphs, passes, ctx) = fused(reading, options, progress)?;
    let graph = &graphs[0];
    progress(Progress::Stage("kernels"));
    let mut weights = WeightMap::default();
    let chooser = Chooser::new(options)?;
    let params = |s: &dyn Schedule| chooser.choose(s).params.clone();
    let layout = |format: &str| options.layout(format);
    let cx = LowerContext { layout: &layout, params: &params, terms: options.terms()? };
    let mut table = KernelTable::new(&options.target);
    let mut lowered = vec![];
    let (mut per_token, mut counters) = (0, 0);
    for (tokens, graph) in programs(options, &graphs) {
        let one = lower(graph, tokens, &mut weights, &cx)?;
        if tokens == 1 {
            per_token = one.calls.iter().map(|c| c.weight_bytes).sum();
        }
        counters = counters.max(one.counters_bytes);
        lowered.push(program(one, tokens, &mut table, &chooser)?);
    }
    chooser.warnings().iter().for_each(|w| progress(Progress::Warning(w)));
    chooser.check_frozen()?;
    progress(Progress::Stage("machine code"));
    let mut objects = table.objects()?;
    let mut code = None;
    if let Some((_, ptx)) = objects.iter().find(|(file, _)| file == KERNELS_PTX) {
        let made = crate::cubins::assemble(ptx, options, || progress(Progress::Stage("assembler")))?;
        made.warning.iter().for_each(|w| progress(Progress::Warning(w)));
        objects.extend(made.cubin.map(|cubin| (cubin_of(&options.target.name), cubin)));
        code = Some(made.choice);
    }

    let kernels =
        table.names.iter().zip(&table.made).map(|(name, (chosen, backend))| (name, &**chosen, backend.name()));
    let choices = choices(&passes, kernels, &weights, options, code);
    let facts = Hyper::of(reading, file_bytes);
    let macs = graph.order().iter().filter(|&&n| matches!(graph.node(n).op, OpKind::Matmul | OpKind::Glu));
    let macs = macs
        .flat_map(|&n| graph.operands(n))
        .filter_map(|o| graph.weight_of(o))
        .filter_map(|w| match w.ty.shape.as_slice() {
            [tilewright_ir::graph::Dim::N(a), tilewright_ir::graph::Dim::N(b)] => Some(a * b),
            _ => None,
        })
        .sum();
    let plan = Plan {
        model: ModelFacts {
            name: name.to_string(),
            arch: reading.arch().name().to_string(),
            // Too many for 32 bits are too many for the rules of plans.
            vocab: u32::try_from(facts.vocab).unwrap_or(u32::MAX),
            n_ctx: u32::try_from(ctx).unwrap_or(u32::MAX),
            parameters: facts.parameters,
            file_bytes: facts.file_bytes,
            bytes_per_token: per_token,
            macs_per_token: macs,
        },
        kernels: table.names.clone(),
        kv: kv_layers(graph),
        rope: graph.rope.iter().map(|r| RopeTable { inv_freq: r.inv_freq.clone(), scale: r.scale }).collect(),
        programs: lowered,
        weights_bytes: weights.bytes,
        launches: table.launches(),
        counters_bytes: counters,
    };
    plan.validate(|name| table.names.iter().any(|n| n == name))?;
    Ok(Compiled { graphs, passes, plan, kernels: table.kernels, objects, weights, choices })
}

fn program(
    lowered: Lowered,
    tokens: u32,
    table: &mut KernelTable<'_>,
    chooser: &Chooser<'_>,
) -> Result<Program, DriverError> {
    let mut call = |c: LoweredCall| {
        let chosen = chooser.choose(c.schedule.as_ref());
        let chunks = c.schedule.chunks(&chosen.params);
        let kernel = table.intern(&c.label, c.schedule.as_ref(), chosen)?;
        Ok::<Call, DriverError>(Call { kernel, chunks, label: c.label, args: c.args, scalars: c.scalars })
    };
    let calls = lowered.calls.into_iter().map(&mut call).collect::<Result<_, _>>()?;
    Ok(Program {
        calls,
        next: lowered.next.map(&mut call).transpose()?,
        sampled: lowered.sampled.map(call).transpose()?,
        max_tokens: tokens,
        arena_bytes: lowered.arena_bytes,
        head_start: lowered.head_start as u32,
        logits: lowered.output.0,
        logits_stride: lowered.output.1,
    })
}

fn kv_layers(graph: &Graph) -> Vec<KvLayer> {
    let mut layers: Vec<(u32, KvLayer)> = vec![];
    for &n in graph.order() {
        let node = graph.node(n);
        if node.op != OpKind::Input || node.ty.elem != Elem::Kv {
            continue;
        }
        if let [tilewright_ir::graph::Dim::N(h), tilewright_ir::graph::Dim::N(d)] = node.ty.shape[..] {
            let index = node.name.strip_prefix("kv.").and_then(|s| s.parse().ok()).unwrap_or(0);
            layers.push((index, KvLayer { heads: h as u32, head_dim: d as u32 }));
        }
    }
    layers.sort_by_key(|l| l.0);
    layers.into_iter().map(|l| l.1).collect()
}

/// Builds the artifact folder `out`.
pub fn build(
    model: &Model,
    out: &Path,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<BuildReport, DriverError> {
    let mut compiled = compile(model, options, progress)?;
    let mut writer = ArtifactWriter::create(out)?;
    progress(Progress::Stage("weights"));
    let total = compiled.weights.bytes;
    let mut stream = writer.weights()?;
    for w in &compiled.weights.entries {
        let at = stream.align()?;
        debug_assert_eq!(at, w.offset);
        pack(model, w, &mut stream)?;
        progress(Progress::Packed(w.offset + w.bytes, total));
    }
    compiled.plan.weights_bytes = stream.finish()?;

    let tokenizer = model.tokenizer()?;
    writer.plan(&compiled.plan)?;
    for (name, object) in &compiled.objects {
        writer.file(name, object)?;
    }
    writer.file(TOKENIZER, tokenizer.json.as_bytes())?;
    if let Some(template) = &tokenizer.chat_template {
        writer.file(CHAT_TEMPLATE, template.as_bytes())?;
    }
    writer.file(GRAPH, compiled.graphs[0].to_string().as_bytes())?;
    let target = &options.target;
    let info = ManifestInfo {
        compiler: concat!("tilewright ", env!("CARGO_PKG_VERSION")).into(),
        model: ModelIdentity { arch: compiled.plan.model.arch.clone(), files: sources(model.path())? },
        target: TargetInfo {
            name: target.name.clone(),
            arch: target.arch().to_string(),
            features: target.features.clone(),
        },
        tokenizer: TokenizerFacts {
            bos: tokenizer.bos,
            eos: tokenizer.eos.clone(),
            add_bos: tokenizer.add_bos,
            add_eos: tokenizer.add_eos,
        },
        choices: compiled.choices,
    };
    let digest = writer.commit(info)?;
    Ok(BuildReport {
        passes: compiled.passes,
        kernels: compiled.kernels.len(),
        object_bytes: compiled.objects.iter().map(|o| o.1.len()).sum(),
        weights_bytes: compiled.plan.weights_bytes,
        digest,
    })
}

/// The model's files, each with its hash: what says whether an artifact is of this model.
fn sources(path: &Path) -> Result<Vec<SourceFile>, DriverError> {
    let io = |source| DriverError::Io { path: path.to_path_buf(), source };
    crate::cache::model_files(path)?
        .into_iter()
        .map(|file| {
            let mut hash = blake3::Hasher::new();
            hash.update_mmap_rayon(&file).map_err(io)?;
            Ok(SourceFile {
                name: file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
                bytes: hash.count(),
                fingerprint: format!("blake3:{}", hash.finalize().to_hex()),
            })
        })
        .collect()
}

/// Packs one weight, a few panels at a time on all cores.
fn pack(model: &Model, w: &PackedWeight, out: &mut impl Write) -> Result<(), DriverError> {
    let raw = model.weight_bytes(&w.weight)?;
    let fail = |source| DriverError::Pack { weight: w.weight.name.clone(), source };
    let io = |source| DriverError::Io { path: w.weight.name.clone().into(), source };
    let cols = w.weight.ty.width().unwrap_or(0);
    let one: Cow<'_, [u8]> = match raw.as_slice() {
        [Cow::Borrowed(part)] => Cow::Borrowed(part),
        parts => Cow::Owned(parts.concat()),
    };
    match &w.packing {
        Packing::Vector => {
            let mut bytes = one.into_owned();
            bytes.resize(w.bytes as usize, 0);
            out.write_all(&bytes).map_err(io)
        }
        Packing::Panels(layout) => {
            let format: &BlockFormat = FormatSet::builtin().get(w.weight.format()).expect("lowered with this format");
            let panel = layout.panel_bytes(cols) as usize;
            let panels = w.bytes as usize / panel;
            let batch = (8 << 20) / panel.max(1) + 1;
            let mut buffer = vec![0; batch.min(panels) * panel];
            for first in (0..panels).step_by(batch) {
                let n = batch.min(panels - first);
                buffer[..n * panel]
                    .par_chunks_exact_mut(panel)
                    .enumerate()
                    .try_for_each(|(i, out)| pack_panel(format, layout, &one, cols, (first + i) as u64, out))
                    .map_err(fail)?;
                out.write_all(&buffer[..n * panel]).map_err(io)?;
            }
            Ok(())
        }
    }
}
