//! A device, real or emulated: kernels, memory that goes when an item is done, and times.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::time::Instant;
use tilewright_codegen::backend::Backend;
use tilewright_codegen::emulated::{EmulatedDriver, EmulatedGpu};
use tilewright_codegen::ptx::{self, Ptx};
use tilewright_codegen::target::Target;
use tilewright_ir::kernel::Kernel;
use tilewright_runtime::cuda::{Code, DeviceFacts, FunctionId, GpuDriver, GraphId, Launch};
use tilewright_runtime::plan;

/// A device and what is held on it.
pub struct Gpu {
    /// The driver.
    pub driver: Box<dyn GpuDriver>,
    /// What the device is.
    pub facts: DeviceFacts,
    /// What code is made for.
    pub target: Target,
    /// Whether it is the emulator, whose times mean nothing.
    pub emulated: bool,
    held: Vec<u64>,
}

/// A kernel on the device.
#[derive(Clone, Copy)]
pub struct Loaded {
    /// The kernel.
    pub function: FunctionId,
    /// How it is launched.
    pub launch: plan::Launch,
}

impl Gpu {
    /// Opens this machine's first GPU, or an emulated one.
    pub fn open(emulate: bool, seed: u64) -> Result<Gpu> {
        let driver: Box<dyn GpuDriver> = match emulate {
            true => Box::new(EmulatedDriver::new(EmulatedGpu { seed, ..EmulatedGpu::default() })),
            false => tilewright_runtime::cuda::open()?,
        };
        let facts = driver.facts().clone();
        let target = tilewright_driver::target::for_device(facts.sm)?;
        Ok(Gpu { driver, facts, target, emulated: emulate, held: vec![] })
    }

    /// Frees everything and opens the device again.
    pub fn reopen(&mut self, seed: u64) -> Result<()> {
        // The old one goes before the new one comes: both may not fit.
        self.driver = Box::new(EmulatedDriver::new(EmulatedGpu::default()));
        *self = Gpu::open(self.emulated, seed)?;
        Ok(())
    }

    /// The device for the results.
    pub fn describe(&self) -> Value {
        let f = &self.facts;
        json!({
            "name": f.name,
            "sm": f.sm,
            "target": self.target.name,
            "multiprocessors": f.multiprocessors,
            "memory_bytes": f.memory_bytes,
            "l2_bytes": f.l2_bytes,
            "shared_bytes": f.shared_bytes,
            "driver": f.driver,
        })
    }

    /// The text of kernels.
    pub fn text(&self, kernels: &[Kernel]) -> Result<Vec<u8>> {
        Ok(Ptx.object(kernels, &self.target)?)
    }

    /// Has the driver compile kernels.
    pub fn load(&mut self, kernels: &[Kernel]) -> Result<Vec<Loaded>> {
        let text = String::from_utf8(self.text(kernels)?)?;
        self.load_code(Code::Ptx(&text), kernels)
    }

    /// Loads kernels that are compiled, or text.
    pub fn load_code(&mut self, code: Code<'_>, kernels: &[Kernel]) -> Result<Vec<Loaded>> {
        let module = self.driver.load(code)?;
        let one = |kernel: &Kernel| {
            let function = self.driver.function(module, &kernel.name)?;
            let launch = ptx::launch(kernel, &self.target);
            if launch.shared_bytes > self.facts.shared_bytes {
                bail!("{} wants {} bytes of shared memory", kernel.name, launch.shared_bytes);
            }
            Ok(Loaded { function, launch })
        };
        kernels.iter().map(one).collect()
    }

    /// Memory until the item is done.
    pub fn alloc(&mut self, bytes: u64) -> Result<u64> {
        let at = self.driver.alloc("a measurement", bytes.max(16))?;
        self.held.push(at);
        Ok(at)
    }

    /// Memory with that in it, until the item is done.
    pub fn put(&mut self, bytes: &[u8]) -> Result<u64> {
        let at = self.alloc(bytes.len() as u64)?;
        if !bytes.is_empty() {
            self.driver.upload(at, bytes)?;
        }
        Ok(at)
    }

    /// Fills memory with a piece over and over.
    pub fn fill(&mut self, at: u64, bytes: u64, piece: &[u8]) -> Result<()> {
        let mut there = bytes.min(piece.len() as u64);
        if there == 0 {
            return Ok(());
        }
        self.driver.upload(at, &piece[..there as usize])?;
        while there < bytes {
            // Whole pieces, so that each lies as the first does.
            let now = there.min(bytes - there);
            self.driver.copy(at + there, at, now)?;
            there += now;
        }
        Ok(())
    }

    /// What is on the device.
    pub fn get(&mut self, at: u64, bytes: usize) -> Result<Vec<u8>> {
        let mut out = vec![0; bytes];
        if bytes > 0 {
            self.driver.download(at, &mut out)?;
        }
        Ok(out)
    }

    /// Frees what was allocated.
    pub fn release(&mut self) -> Result<()> {
        for at in std::mem::take(&mut self.held) {
            self.driver.free(at)?;
        }
        Ok(())
    }

    /// Launches a kernel, or records it.
    pub fn launch(&mut self, kernel: Loaded, grid: u32, params: &[u64], overlap: bool) -> Result<()> {
        let plan::Launch { threads, shared_bytes, waits } = kernel.launch;
        let dependent = overlap && waits;
        self.driver.launch(&Launch { function: kernel.function, grid, threads, shared_bytes, params, dependent })?;
        Ok(())
    }

    /// A graph of what `record` launches.
    pub fn graph(&mut self, record: impl FnOnce(&mut Gpu) -> Result<()>) -> Result<GraphId> {
        self.driver.begin_capture()?;
        let recorded = record(self);
        let graph = self.driver.end_capture();
        recorded?;
        Ok(graph?)
    }

    /// Times of a graph in nanoseconds, sorted, after a run that is not timed.
    pub fn times(&mut self, graph: GraphId, runs: usize) -> Result<Vec<u64>> {
        if !self.emulated {
            self.driver.replay(graph)?;
        }
        let mut times = (0..runs).map(|_| Ok(self.driver.time(graph)?)).collect::<Result<Vec<u64>>>()?;
        times.sort_unstable();
        Ok(times)
    }

    /// The median time of a graph in nanoseconds.
    pub fn median(&mut self, graph: GraphId, runs: usize) -> Result<f64> {
        median(&self.times(graph, runs)?)
    }

    /// Seconds on the host until all that `work` asks for is done.
    pub fn wall(&mut self, work: impl FnOnce(&mut Gpu) -> Result<()>) -> Result<f64> {
        self.driver.synchronize()?;
        let start = Instant::now();
        work(self)?;
        self.driver.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// As many runs as are worth it: one where times mean nothing.
    pub fn runs(&self, runs: usize) -> usize {
        if self.emulated { 1 } else { runs }
    }
}

/// The middle of sorted times.
pub fn median(sorted: &[u64]) -> Result<f64> {
    let n = sorted.len();
    let middle = sorted.get(n / 2).context("nothing was timed")?;
    Ok((*middle as f64 + sorted[(n - 1) / 2] as f64) / 2.0)
}

/// Three digits are what a measurement has.
pub fn round(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return 0.0;
    }
    let scale = 10f64.powi(3 - x.abs().log10().floor() as i32);
    (x * scale).round() / scale
}
