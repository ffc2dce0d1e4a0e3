//! `doctor`: what this machine has, what is missing, and what that costs.

use crate::args::CompileArgs;
use crate::system::{self, human};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use tilewright_autotune::fingerprint::{self, Device};
use tilewright_autotune::{bandwidth, exchange};
use tilewright_codegen::backend::{self, Backend};
use tilewright_codegen::cranelift::Cranelift;
use tilewright_codegen::ptx::assembler::Assembler;
use tilewright_codegen::target::Target;
use tilewright_driver::target::for_device;
use tilewright_ir::kernel::{KernelBuilder, Type};
use tilewright_runtime::cuda::{self, DeviceFacts, GpuError};
use tilewright_runtime::loader::Kernels;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    compile: CompileArgs,
    /// One object: {"checks": [{"what", "ok", "found", "cost"}], ..}
    #[arg(long)]
    json: bool,
}

/// Bytes that the bandwidth is measured with.
const BYTES: usize = 256 << 20;

struct Check {
    what: &'static str,
    ok: bool,
    found: String,
    /// What it costs that this is as it is; empty if nothing.
    cost: String,
}

impl Check {
    fn ok(what: &'static str, found: impl Into<String>) -> Check {
        Check { what, ok: true, found: found.into(), cost: String::new() }
    }

    fn costs(mut self, cost: impl Into<String>) -> Check {
        self.cost = cost.into();
        self
    }

    fn bad(what: &'static str, found: impl Into<String>, cost: impl Into<String>) -> Check {
        Check { what, ok: false, found: found.into(), cost: cost.into() }
    }
}

fn target() -> Check {
    match Target::detect() {
        Err(e) => Check::bad("target", e.to_string(), "nothing can be compiled for this machine"),
        Ok(t) => {
            let better: Vec<String> = Target::all()
                .iter()
                .take_while(|b| b.name != t.name)
                .filter(|b| b.arch() == t.arch())
                .map(|b| format!("{} lacks {}", b.name, b.features_missing_on_host().join(" ")))
                .collect();
            Check::ok("target", format!("{} ({})", t.name, t.features.join(" "))).costs(better.join("; "))
        }
    }
}

fn back_end() -> Check {
    let mut b = KernelBuilder::new("probe");
    let p = b.ptr_param("p");
    let v = b.load(Type::F32.x(16), p, 0);
    b.store(v, p, 64);
    let found = Target::detect()
        .map_err(|e| e.to_string())
        .and_then(|t| Ok((backend::default_for(&b.finish(), &t).map_err(|e| e.to_string())?, t.vector_bits)));
    match found {
        Ok((b, wide)) if b.name() == Cranelift.name() && wide > 128 => {
            Check::ok("back end", "cranelift: 128-bit vectors").costs(format!(
                "the CPU has {wide}-bit vectors; prefill, which is bound by arithmetic, leaves that unused"
            ))
        }
        Ok((b, wide)) => Check::ok("back end", format!("{}: {wide}-bit vectors", b.name())),
        Err(e) => Check::bad("back end", e, "nothing can be compiled for this machine"),
    }
}

/// Compiles one kernel and loads it: the whole way to machine code.
fn machine_code() -> Check {
    let mut b = KernelBuilder::new("probe");
    let p = b.ptr_param("p");
    let v = b.load(Type::F32, p, 0);
    b.store(v, p, 4);
    let kernel = b.finish();
    let object = Target::detect().map_err(|e| e.to_string()).and_then(|t| {
        backend::default_for(&kernel, &t).and_then(|b| b.object(&[kernel], &t)).map_err(|e| e.to_string())
    });
    match object.and_then(|o| Kernels::load(&o).map_err(|e| e.to_string())) {
        Ok(_) => Check::ok("machine code", "compiles and loads"),
        Err(e) => Check::bad("machine code", e, "no model can run"),
    }
}

fn memory() -> Check {
    match (system::memory_available(), system::memory_total()) {
        (Some(free), Some(all)) => Check::ok("memory", format!("{} of {} available", human(free), human(all))),
        _ => Check::bad("memory", "the system does not say", "a model that is too large is found out late"),
    }
}

fn cache(args: &CompileArgs) -> Check {
    let cache = match args.cache() {
        Ok(c) => c,
        Err(e) => return Check::bad("cache", e.to_string(), "every verb needs --cache-dir or an artifact"),
    };
    let root = cache.root();
    let here = |path: &Path| format!("{}", path.display());
    match std::fs::create_dir_all(root).and_then(|()| probe(root)) {
        Ok(()) => {
            let n = std::fs::read_dir(root.join("artifacts")).map_or(0, |d| d.count());
            Check::ok("cache", format!("{}, {n} artifact(s)", here(root)))
        }
        Err(e) => {
            Check::bad("cache", format!("{}: {e}", here(root)), "raw models cannot be kept compiled; use --cache-dir")
        }
    }
}

fn probe(root: &Path) -> std::io::Result<()> {
    let file = root.join(format!(".probe-{}", std::process::id()));
    std::fs::write(&file, b"")?;
    std::fs::remove_file(&file)
}

fn gpu(found: &Result<DeviceFacts, GpuError>) -> Check {
    let facts = match found {
        Ok(facts) => facts,
        // A machine without one is as good as any other until a model is compiled for one.
        Err(e) => return Check::ok("GPU", "none").costs(format!("--target cuda: {e}")),
    };
    let (what, driver) = (system::gpu_name(facts), facts.driver);
    let what = format!("{what}, driver of CUDA {}.{}", driver / 1000, driver % 1000 / 10);
    match for_device(facts.sm) {
        Ok(target) => Check::ok("GPU", format!("{what}: --target {}", target.name)),
        Err(e) => Check::ok("GPU", what).costs(e.to_string()),
    }
}

fn assembler() -> Check {
    match Assembler::find().map(|a| a.version()) {
        Some(Ok(version)) => Check::ok("assembler", version),
        Some(Err(e)) => Check::bad("assembler", e.to_string(), "the GPU's driver compiles the kernels at each start"),
        None => Check::ok("assembler", "no ptxas")
            .costs("kernels for a GPU are compiled by its driver at each start, and spills are not seen by the tuner"),
    }
}

/// Records of this machine: of its processor, and of its GPU if there is one.
fn tuning(args: &CompileArgs, gpu: Option<&DeviceFacts>) -> Check {
    let count = |device: String| {
        let cache = args.cache().map_err(|e| e.to_string())?;
        exchange::known(cache.root(), &[device]).map(|(rows, _)| rows.len()).map_err(|e| e.to_string())
    };
    let counts = count(Device::detect().id()).and_then(|cpu| {
        let gpu = gpu.map(|facts| count(fingerprint::of_gpu(facts))).transpose()?;
        Ok((cpu, gpu))
    });
    let cost = "kernels without a record use the defaults of their schedules; `tune MODEL` measures them";
    match counts {
        Err(e) => Check::bad("tuning", e, "schedules use their default parameters"),
        Ok((0, None | Some(0))) => Check::ok("tuning", "no records").costs(cost),
        Ok((cpu, None)) => Check::ok("tuning", format!("{cpu} record(s)")),
        Ok((cpu, Some(gpu))) => Check::ok("tuning", format!("{cpu} record(s) of the processor, {gpu} of the GPU")),
    }
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let cores = system::cores();
    let one = bandwidth::measure(1, BYTES);
    let all = if cores > 1 { bandwidth::measure(cores, BYTES) } else { one.clone() };
    let gb = |b: &bandwidth::Bandwidth| {
        format!("{:.1} GB/s (+- {:.1}) with {} thread(s)", b.median / 1e9, b.mad / 1e9, b.threads)
    };
    let device = cuda::open().map(|driver| driver.facts().clone());
    let checks = [
        Check::ok("processor", format!("{}, {cores} core(s) for this process", system::cpu_name())),
        target(),
        back_end(),
        machine_code(),
        memory(),
        Check::ok("memory speed", format!("{}, {}", gb(&one), gb(&all)))
            .costs(format!("a model that reads 100 MB a token makes at most {:.0} tok/s", all.best / 1e8)),
        cache(&args.compile),
        gpu(&device),
        assembler(),
        tuning(&args.compile, device.as_ref().ok()),
    ];
    let mut out = std::io::stdout().lock();
    if args.json {
        let checks: Vec<Value> =
            checks.iter().map(|c| json!({ "what": c.what, "ok": c.ok, "found": c.found, "cost": c.cost })).collect();
        let object = json!({ "checks": checks, "cores": cores, "bandwidth_1": one.median, "bandwidth": all.median });
        writeln!(out, "{object}")?;
    } else {
        for c in &checks {
            writeln!(out, "{} {:<13} {}", if c.ok { "ok  " } else { "FAIL" }, c.what, c.found)?;
            if !c.cost.is_empty() {
                writeln!(out, "{:19}-> {}", "", c.cost)?;
            }
        }
    }
    match checks.iter().find(|c| !c.ok) {
        Some(c) => anyhow::bail!("{}: {}", c.what, c.found),
        None => Ok(()),
    }
}
