//! What can go wrong on the way from a model to an artifact.

/// A failed build.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The model file cannot be used.
    #[error(transparent)]
    Model(#[from] tilewright_models::model::ModelError),
    /// A graph rule was broken: a bug in an architecture's declaration or in a pass.
    #[error("graph: {0}")]
    Graph(#[from] tilewright_ir::graph::GraphError),
    /// A pass failed or does not exist.
    #[error(transparent)]
    Pass(#[from] tilewright_passes::PassError),
    /// The graph has something no kernel covers.
    #[error(transparent)]
    Lower(#[from] tilewright_codegen::lower::LowerError),
    /// A weight cannot be packed.
    #[error("weight {weight}: {source}")]
    Pack {
        /// Weight.
        weight: String,
        /// Reason.
        source: tilewright_codegen::pack::PackError,
    },
    /// The back end or the target.
    #[error(transparent)]
    Codegen(#[from] tilewright_codegen::backend::CodegenError),
    /// The target.
    #[error(transparent)]
    Target(#[from] tilewright_codegen::target::TargetError),
    /// The assembler of a GPU's kernels.
    #[error(transparent)]
    Assemble(#[from] tilewright_codegen::ptx::assembler::AssembleError),
    /// The GPU, or what it needs.
    #[error(transparent)]
    Gpu(#[from] tilewright_runtime::cuda::GpuError),
    /// Activations that the target's kernels do not take.
    #[error("{activations} activations are not for {target}: a GPU takes f16 and f32, a CPU q8, bf16 and f32")]
    Activations {
        /// What was asked for.
        activations: String,
        /// The target.
        target: String,
    },
    /// A kernel breaks a rule of kernel IR: a bug in its schedule.
    #[error("kernel {name}: {message}")]
    Kernel {
        /// Kernel.
        name: String,
        /// Rules broken.
        message: String,
    },
    /// The runtime would refuse the plan: a size in the model is beyond what it runs.
    #[error("the model cannot be compiled: {0}")]
    Plan(#[from] tilewright_runtime::artifact::PlanError),
    /// The artifact cannot be written or read.
    #[error(transparent)]
    Artifact(#[from] tilewright_runtime::error::ArtifactError),
    /// The interpreter.
    #[error("interpreter: {0}")]
    Interp(String),
    /// A folder.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no cache folder.
    #[error("no cache folder: {0}; give one with --cache-dir")]
    NoCache(String),
    /// Tuning.
    #[error(transparent)]
    Tune(#[from] tilewright_autotune::TuneError),
    /// The records.
    #[error(transparent)]
    Records(#[from] tilewright_autotune::store::StoreError),
    /// An operation without a record, where every one must have one.
    #[error(
        "no record for `{op}` with {threads} thread(s); make it with `compile-model tune -m MODEL -t {threads} --target {target}`, or build without --frozen"
    )]
    NoRecord {
        /// The operation.
        op: String,
        /// Threads.
        threads: u32,
        /// Name of the target.
        target: String,
    },
    /// Nowhere to keep records.
    #[error("no folder for the records of tuning; name one in the build's options")]
    NoFolder,
}
