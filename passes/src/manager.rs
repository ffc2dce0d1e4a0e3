//! Runs passes in order: verifies, times and counts each, and keeps the text of the graph where asked.
//!
//! ```
//! use tilewright_ir::graph::{Dim, Elem, Graph, OpKind, TensorType, Weight, attrs};
//! use tilewright_passes::{PassContext, PassManager};
//! let mut g = Graph::new("demo");
//! let x = g.input("x", TensorType::activations(64));
//! let w = g.weight(Weight::of("w", "q8_0", &[32, 64]));
//! let b = g.weight(Weight::of("b", "f32", &[32]));
//! let m = g.push(OpKind::Matmul, &[x, w], attrs([])).unwrap();
//! let y = g.push(OpKind::Add, &[m, b], attrs([])).unwrap();
//! g.set_outputs(&[y]);
//! let report = PassManager::new(PassContext::f32()).run(&mut g).unwrap();
//! assert_eq!(report.rewrites("fuse-bias"), 1);
//! ```

use crate::{
    Canonicalise, ChoosePrecision, ConcatMatmul, Cse, Dce, FuseBias, FuseGlu, FuseNormQuantize, FuseQkNorm,
    FuseQuantize, FuseQuantizeMatmul, FuseResidual, FuseRope,
};
use std::collections::BTreeSet;
use std::time::Instant;
use tilewright_ir::graph::{Elem, Graph, GraphError, VerifyErrors, verify};

/// A rewrite of a graph.
pub trait Pass: Sync {
    /// Name on the command line and in reports.
    fn name(&self) -> &'static str;
    /// What it does, in one line.
    fn doc(&self) -> &'static str;
    /// Rewrites `g`; how often.
    fn run(&self, g: &mut Graph, ctx: &PassContext) -> Result<usize, GraphError>;
}

/// What values between weights are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activations {
    /// Rounded to int8 blocks in front of products whose kernels take them.
    Q8,
    /// Rounded to bf16 in front of the same products, whose weights are rounded to bf16, too.
    Bf16,
    /// Rounded to f16 with a scale a row, in front of all products, whose weights stay as they are. For tensor cores.
    F16,
    /// Likewise, to the sum of two f16: about 22 bits.
    F16Pair,
    /// Single precision throughout.
    #[default]
    F32,
}

impl Activations {
    /// What `quantize` has to round to, in front of products.
    pub fn rounding(self) -> Option<Elem> {
        match self {
            Activations::Q8 => Some(Elem::Q8),
            Activations::Bf16 => Some(Elem::BF16),
            Activations::F16 => Some(Elem::F16),
            Activations::F16Pair => Some(Elem::F16Pair),
            Activations::F32 => None,
        }
    }
}

/// What passes must know beside the graph.
#[derive(Clone, Copy)]
pub struct PassContext<'a> {
    /// Precision policy.
    pub activations: Activations,
    /// Whether products with weights of the format of that name can read int8 blocks or bf16; f16 they all can.
    pub takes_q8: &'a dyn Fn(&str) -> bool,
    /// The program is one of few tokens, in which every block of a kernel can afford to norm and round whole rows itself.
    pub few_tokens: bool,
}

impl PassContext<'_> {
    /// Single precision throughout.
    pub fn f32() -> PassContext<'static> {
        PassContext { activations: Activations::F32, takes_q8: &|_| false, few_tokens: false }
    }
}

/// One row of [`PIPELINE`].
pub struct PassRow {
    /// The pass.
    pub pass: &'static dyn Pass,
    /// Whether it may be turned off by name.
    pub switchable: bool,
}

const fn always(pass: &'static dyn Pass) -> PassRow {
    PassRow { pass, switchable: false }
}

const fn fusion(pass: &'static dyn Pass) -> PassRow {
    PassRow { pass, switchable: true }
}

/// The passes, in the order in which they run.
pub const PIPELINE: &[PassRow] = &[
    always(&Canonicalise),
    always(&Cse),
    always(&Dce),
    always(&ChoosePrecision),
    fusion(&FuseBias),
    fusion(&FuseGlu),
    fusion(&FuseResidual),
    fusion(&FuseRope),
    fusion(&FuseQkNorm),
    fusion(&FuseNormQuantize),
    fusion(&FuseQuantize),
    fusion(&ConcatMatmul),
    fusion(&FuseQuantizeMatmul),
];

/// The pass of that name.
pub fn find(name: &str) -> Option<&'static dyn Pass> {
    PIPELINE.iter().map(|row| row.pass).find(|p| p.name() == name)
}

/// Why passes could not run.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// No such pass, or one that cannot be turned off.
    #[error("there is no pass `{name}` {what}; there are: {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// In what role.
        what: &'static str,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// A dump request that is neither `all` nor `after:<pass>`.
    #[error("`{0}` says neither `all` nor `after:<pass>`")]
    Dump(String),
    /// A pass met a node that it could not rewrite.
    #[error("pass {pass}: {error}")]
    Failed {
        /// Which.
        pass: &'static str,
        /// Why.
        error: GraphError,
    },
    /// A pass left a graph that does not verify: a bug in the pass.
    #[error("the graph is wrong after {after}: {errors}")]
    Invalid {
        /// The pass, or `reading` before the first: then the graph was wrong from the start.
        after: &'static str,
        /// What the verifier says.
        errors: VerifyErrors,
    },
}

/// What one pass did.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportRow {
    /// Which.
    pub name: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// How often it rewrote something.
    pub rewrites: usize,
    /// Time, verification not included.
    pub micros: u64,
    /// Nodes, weights and inputs included, before and after.
    pub nodes: (usize, usize),
}

/// What the passes did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One row for each pass that ran.
    pub rows: Vec<ReportRow>,
    /// Text of the graph after the passes that were asked for.
    pub dumps: Vec<(&'static str, String)>,
}

impl Report {
    /// How often the pass of that name rewrote something.
    pub fn rewrites(&self, name: &str) -> usize {
        self.rows.iter().filter(|r| r.name == name).map(|r| r.rewrites).sum()
    }
}

/// Runs [`PIPELINE`].
#[derive(Clone)]
pub struct PassManager<'a> {
    /// Switched off, by name.
    pub off: BTreeSet<String>,
    /// `all`, or `after:<pass>`: keep the graph's text in the report.
    pub dump: Option<String>,
    /// Verify before the first pass and after each.
    pub verify: bool,
    /// What passes must know.
    pub context: PassContext<'a>,
}

impl<'a> PassManager<'a> {
    /// Everything on, verifying.
    pub fn new(context: PassContext<'a>) -> Self {
        PassManager { off: BTreeSet::new(), dump: None, verify: true, context }
    }

    /// Runs what is switched on.
    pub fn run(&self, g: &mut Graph) -> Result<Report, PassError> {
        let known = || PIPELINE.iter().filter(|r| r.switchable).map(|r| r.pass.name());
        if let Some(name) = self.off.iter().find(|n| !known().any(|k| k == *n)) {
            return Err(PassError::Unknown { name: name.clone(), what: "to turn off", known: known().collect() });
        }
        let on: Vec<_> = PIPELINE.iter().map(|r| r.pass).filter(|p| !self.off.contains(p.name())).collect();
        self.run_each(g, &on)
    }

    /// Runs just these, in this order.
    pub fn run_named(&self, g: &mut Graph, names: &[&str]) -> Result<Report, PassError> {
        let passes =
            names.iter().map(|n| find(n).ok_or_else(|| unknown(n, "to run"))).collect::<Result<Vec<_>, _>>()?;
        self.run_each(g, &passes)
    }

    fn run_each(&self, g: &mut Graph, passes: &[&'static dyn Pass]) -> Result<Report, PassError> {
        let dumped = self.dumped()?;
        self.check(g, "reading")?;
        let mut report = Report::default();
        for pass in passes {
            let name = pass.name();
            let before = g.order().len();
            let start = Instant::now();
            let rewrites = pass.run(g, &self.context).map_err(|error| PassError::Failed { pass: name, error })?;
            let micros = start.elapsed().as_micros() as u64;
            report.rows.push(ReportRow { name, doc: pass.doc(), rewrites, micros, nodes: (before, g.order().len()) });
            if dumped.is_some_and(|only| only.is_empty() || only == name) {
                report.dumps.push((name, g.to_string()));
            }
            self.check(g, name)?;
        }
        Ok(report)
    }

    /// The pass after which to dump; empty = after all.
    fn dumped(&self) -> Result<Option<&str>, PassError> {
        match self.dump.as_deref() {
            None => Ok(None),
            Some("all") => Ok(Some("")),
            Some(other) => match other.strip_prefix("after:") {
                Some(name) if find(name).is_some() => Ok(Some(name)),
                Some(name) => Err(unknown(name, "to dump after")),
                None => Err(PassError::Dump(other.to_string())),
            },
        }
    }

    fn check(&self, g: &Graph, after: &'static str) -> Result<(), PassError> {
        match self.verify {
            true => verify(g).map_err(|errors| PassError::Invalid { after, errors }),
            false => Ok(()),
        }
    }
}

fn unknown(name: &str, what: &'static str) -> PassError {
    PassError::Unknown { name: name.to_string(), what, known: PIPELINE.iter().map(|r| r.pass.name()).collect() }
}
