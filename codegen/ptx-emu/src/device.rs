//! The device: memory, and launches on it.

use crate::check::Bad;
use crate::exec::Info;
use crate::exec::global::Global;
use crate::exec::grid::Grid;
use crate::parse::module::{Kernel, Module};
use crate::{Fault, FaultKind, Stats};

/// Where an allocation starts. Addresses inside of it are had by adding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// The address so many bytes further on.
    pub fn offset(self, bytes: u64) -> DevicePtr {
        DevicePtr(self.0.wrapping_add(bytes))
    }
}

/// What a device is like.
#[derive(Clone, Debug)]
pub struct Config {
    /// CTAs of a grid that run at the same time, at most. The seed chooses how many really do.
    pub resident_ctas: usize,
    /// Bytes of shared memory that a CTA may have.
    pub shared_bytes: usize,
    /// Threads that a CTA may have.
    pub max_threads: u32,
}

impl Default for Config {
    /// Shared memory of sm_90, and few resident CTAs, so that the rest comes later.
    fn default() -> Self {
        Self { resident_ctas: 4, shared_bytes: 227 * 1024, max_threads: 1024 }
    }
}

/// An argument of a kernel.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Arg {
    Ptr(DevicePtr),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    /// A parameter declared as an array of bytes.
    Bytes(Vec<u8>),
}

impl Arg {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Arg::Ptr(p) => p.0.to_le_bytes().to_vec(),
            Arg::U32(v) => v.to_le_bytes().to_vec(),
            Arg::I32(v) => v.to_le_bytes().to_vec(),
            Arg::U64(v) => v.to_le_bytes().to_vec(),
            Arg::I64(v) => v.to_le_bytes().to_vec(),
            Arg::F32(v) => v.to_le_bytes().to_vec(),
            Arg::F64(v) => v.to_le_bytes().to_vec(),
            Arg::Bytes(b) => b.clone(),
        }
    }
}

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Chooses who runs when, and when copies land.
    pub seed: u64,
    /// Warp instructions that a launch may take.
    pub step_limit: u64,
    /// All CTAs are resident, as in a cooperative launch: they may wait for each other.
    pub cooperative: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 0, step_limit: 20_000_000, cooperative: false }
    }
}

/// A launch in a stream.
#[derive(Clone, Debug)]
pub struct Launch<'m> {
    /// The module.
    pub module: &'m Module,
    /// Name of the kernel.
    pub kernel: &'m str,
    /// CTAs in x, y, z.
    pub grid: [u32; 3],
    /// Threads in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: usize,
    /// Arguments, in the order of the parameters.
    pub args: Vec<Arg>,
    /// Programmatic dependent launch: it may start before the launch in front of it is over. The emulator always lets it,
    /// as far as to `griddepcontrol.wait`, before the other one does anything that it did not do early itself.
    pub dependent: bool,
}

/// A device with its memory.
pub struct Device {
    config: Config,
    mem: Global,
    launches: u32,
}

impl Device {
    /// A device without allocations.
    pub fn new(config: Config) -> Self {
        Self { config, mem: Global::default(), launches: 0 }
    }

    /// Memory that nothing has been written to. The name is for reports.
    pub fn alloc(&mut self, name: &str, bytes: usize) -> DevicePtr {
        DevicePtr(self.mem.alloc(name, bytes))
    }

    fn host_fault(bad: Bad) -> Fault {
        match bad {
            Bad::There(f) => *f,
            Bad::Here(kind, message) => {
                Fault { kind, kernel: "(host)".into(), line: 0, cta: [0; 3], warp: 0, lane: None, message }
            }
        }
    }

    /// Writes from the host.
    pub fn write(&mut self, at: DevicePtr, bytes: &[u8]) -> Result<(), Fault> {
        self.host(|mem, who| mem.write(at.0, bytes, who))
    }

    /// Reads on the host, with the same checks as on the device.
    pub fn read(&mut self, at: DevicePtr, bytes: usize) -> Result<Vec<u8>, Fault> {
        let mut out = vec![0; bytes];
        self.host(|mem, who| mem.read(at.0, &mut out, false, who))?;
        Ok(out)
    }

    fn host(
        &mut self,
        f: impl FnOnce(&mut Global, &crate::exec::global::Access<'_>) -> Result<(), Bad>,
    ) -> Result<(), Fault> {
        let place = || Self::host_fault(Bad::new(FaultKind::Launch, ""));
        let who = crate::exec::global::Access { launch: 0, pre: false, horizon: 0, place: &place };
        f(&mut self.mem, &who).map_err(Self::host_fault)
    }

    /// Writes numbers from the host.
    pub fn write_f32(&mut self, at: DevicePtr, values: &[f32]) -> Result<(), Fault> {
        self.write(at, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    /// Reads numbers on the host.
    pub fn read_f32(&mut self, at: DevicePtr, count: usize) -> Result<Vec<f32>, Fault> {
        let bytes = self.read(at, 4 * count)?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// Runs one kernel to its end.
    #[expect(clippy::too_many_arguments, reason = "these are what a launch consists of")]
    pub fn launch(
        &mut self,
        module: &Module,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: usize,
        args: &[Arg],
        options: &Options,
    ) -> Result<Stats, Fault> {
        let launch = Launch { module, kernel, grid, block, dynamic_shared, args: args.to_vec(), dependent: false };
        Ok(self.stream(&[launch], options)?.remove(0))
    }

    /// Runs launches in order; those that are dependent overlap with the one in front as far as the rules allow.
    pub fn stream(&mut self, launches: &[Launch<'_>], options: &Options) -> Result<Vec<Stats>, Fault> {
        let result = self.run_stream(launches, options);
        if result.is_err() {
            self.mem.forget();
        }
        result
    }

    fn run_stream(&mut self, launches: &[Launch<'_>], options: &Options) -> Result<Vec<Stats>, Fault> {
        let (mut out, mut started) = (Vec::new(), None::<Grid<'_>>);
        for (i, launch) in launches.iter().enumerate() {
            let mut grid = match started.take() {
                Some(g) => g,
                None => self.prepare(launch, None, options)?,
            };
            if let Some(next) = launches.get(i + 1).filter(|l| l.dependent) {
                let mut next = self.prepare(next, Some(&grid), options)?;
                next.run_early(&mut self.mem)?;
                started = Some(next);
            }
            grid.finish(&mut self.mem)?;
            self.mem.settle()?;
            out.push(grid.stats);
        }
        Ok(out)
    }

    fn prepare<'m>(&mut self, l: &Launch<'m>, before: Option<&Grid<'_>>, options: &Options) -> Result<Grid<'m>, Fault> {
        self.launches += 1;
        let refuse = |message: String| {
            let (kind, kernel) = (FaultKind::Launch, l.kernel.to_string());
            Fault { kind, kernel, line: 0, cta: [0; 3], warp: 0, lane: None, message }
        };
        let kernel = l.module.kernels.iter().find(|k| k.name == l.kernel);
        let kernel = kernel.ok_or_else(|| refuse(format!("the module has no kernel `{}`", l.kernel)))?;
        self.check(kernel, l).map_err(refuse)?;
        let mut params = vec![0; kernel.param_bytes];
        for (p, a) in kernel.params.iter().zip(&l.args) {
            params[p.offset..p.offset + p.size].copy_from_slice(&a.bytes());
        }
        // If the grid before lets its dependents go before it waited, those before it may still be running, too.
        let horizon = match before {
            Some(b) if b.early_trigger => b.info.horizon,
            Some(b) => b.info.launch,
            None => self.launches,
        };
        let info = Info {
            kernel,
            constants: &l.module.constants,
            grid: l.grid,
            block: l.block,
            dynamic_shared: l.dynamic_shared,
            params,
            launch: self.launches,
            horizon,
        };
        let limit = self.config.resident_ctas.max(1);
        let resident = match options.cooperative {
            true => usize::MAX,
            false => 1 + crate::rng::Rng::new(options.seed ^ 0x5eed).below(limit),
        };
        Ok(Grid::new(info, resident, before.is_some(), options.seed, options.step_limit))
    }

    fn check(&self, kernel: &Kernel, l: &Launch<'_>) -> Result<(), String> {
        if kernel.params.len() != l.args.len() {
            return Err(format!("{} arguments for {} parameters", l.args.len(), kernel.params.len()));
        }
        for (p, a) in kernel.params.iter().zip(&l.args) {
            if p.size != a.bytes().len() {
                return Err(format!("parameter `{}` has {} bytes, its argument {}", p.name, p.size, a.bytes().len()));
            }
        }
        let threads = l.block.iter().map(|n| u64::from(*n)).fold(1, u64::saturating_mul);
        let ctas = l.grid.iter().map(|n| u64::from(*n)).fold(1, u64::saturating_mul);
        if threads == 0 || threads > self.config.max_threads.into() || ctas == 0 || ctas > 1 << 24 {
            return Err(format!("{ctas} CTAs of {threads} threads"));
        }
        if let Some(max) = kernel.max_threads
            && (threads > max || kernel.exact_threads && threads != max)
        {
            return Err(format!("{threads} threads, where the kernel declares {max}"));
        }
        let shared = kernel.shared_bytes + l.dynamic_shared;
        if shared > self.config.shared_bytes {
            return Err(format!("{shared} bytes of shared memory, where the device has {}", self.config.shared_bytes));
        }
        Ok(())
    }
}
