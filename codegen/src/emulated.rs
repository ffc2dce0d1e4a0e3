//! A GPU that is not there: [`GpuDriver`] on the emulator of PTX.
//!
//! A session on it runs the very text that a GPU would be given, and every mistake that the emulator knows becomes an error
//! of the step: bounds, races, memory that nothing wrote, missing waits. A launch that may overlap with the one before it
//! does overlap, as early as the rules allow. Graphs are recorded launches.
//!
//! The driver goes into the session; [`EmulatedDriver::counts`] is a handle that stays outside.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tilewright_ptx_emu::{self as emu, Arg, Config, Device, DevicePtr, Fault, FaultKind, Module, Options};
use tilewright_runtime::cuda::{Code, DeviceFacts, FunctionId, GpuDriver, GpuError, GraphId, Launch, ModuleId, Sm};

/// The clock, a launch. It is slow, so that what measures for so many nanoseconds runs little.
const LAUNCH_NS: u64 = 2000;
/// The clock, a warp instruction.
const INSTRUCTION_NS: u64 = 10;
/// The clock, bytes of memory.
const BYTES_A_NS: u64 = 4;

/// What the emulated GPU is like.
#[derive(Clone, Debug)]
pub struct EmulatedGpu {
    /// Compute capability: 80, 90.
    pub sm: u32,
    /// Bytes that allocations can take.
    pub memory_bytes: u64,
    /// Chooses which warp and which block goes next; every launch gets another order from it.
    pub seed: u64,
    /// Warp instructions that a launch may take.
    pub step_limit: u64,
    /// Level 2 cache that it says it has; nothing is cached.
    pub l2_bytes: u64,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Whether it says that it takes machine code, of which it then refuses any.
    pub takes_cubins: bool,
}

impl Default for EmulatedGpu {
    fn default() -> Self {
        EmulatedGpu {
            sm: 90,
            memory_bytes: 4 << 30,
            seed: 0,
            step_limit: 200_000_000,
            l2_bytes: 1 << 20,
            multiprocessors: 4,
            takes_cubins: false,
        }
    }
}

/// What was run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelCounts {
    /// Launches.
    pub launches: u64,
    /// Of them, those that could overlap with the one before.
    pub dependent: u64,
    /// Warp instructions.
    pub instructions: u64,
    /// Bytes read from global memory.
    pub global_read: u64,
    /// Bytes written to global memory.
    pub global_written: u64,
    /// Accesses to shared memory that had to be repeated.
    pub bank_conflicts: u64,
}

/// Counts of each kernel, kept up to date by the driver.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Mutex<BTreeMap<String, KernelCounts>>>);

impl Counts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, KernelCounts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts by name of kernel.
    pub fn by_kernel(&self) -> BTreeMap<String, KernelCounts> {
        self.lock().clone()
    }

    /// Warp instructions of all kernels.
    pub fn instructions(&self) -> u64 {
        self.lock().values().map(|c| c.instructions).sum()
    }

    /// A clock that goes on with work: a part for each launch, each warp instruction, and each byte from or to memory.
    pub fn nanos(&self) -> u64 {
        let of = |c: &KernelCounts| {
            let bytes = c.global_read + c.global_written;
            c.launches * LAUNCH_NS + (c.instructions + c.bank_conflicts) * INSTRUCTION_NS + bytes / BYTES_A_NS
        };
        self.lock().values().map(of).sum()
    }

    /// Starts again at zero.
    pub fn reset(&self) {
        self.lock().clear();
    }
}

/// A launch with everything it needs.
#[derive(Clone)]
struct Recorded {
    function: FunctionId,
    grid: u32,
    threads: u32,
    shared_bytes: u32,
    params: Vec<u64>,
    dependent: bool,
}

/// An emulated GPU.
pub struct EmulatedDriver {
    gpu: EmulatedGpu,
    facts: DeviceFacts,
    device: Device,
    used: u64,
    allocations: HashMap<u64, u64>,
    modules: Vec<Module>,
    /// Module and name.
    functions: Vec<(usize, String)>,
    /// Launches since capturing began.
    recording: Option<Vec<Recorded>>,
    graphs: Vec<Vec<Recorded>>,
    /// Streams of launches so far.
    streams: u64,
    counts: Counts,
}

impl EmulatedDriver {
    /// A device with nothing on it.
    pub fn new(gpu: EmulatedGpu) -> EmulatedDriver {
        // What a block can have of shared memory: 227 KB on the large chips, 99 on the others.
        let shared_bytes = match gpu.sm {
            90 | 100 => 227 << 10,
            80 | 87 => 163 << 10,
            ..80 => 64 << 10,
            _ => 99 << 10,
        };
        let facts = DeviceFacts {
            name: format!("emulated sm_{}", gpu.sm),
            sm: gpu.sm,
            multiprocessors: gpu.multiprocessors,
            memory_bytes: gpu.memory_bytes,
            l2_bytes: gpu.l2_bytes,
            shared_bytes,
            driver: 13000,
            takes_cubins: gpu.takes_cubins,
        };
        let config = Config { shared_bytes: shared_bytes as usize, ..Config::default() };
        EmulatedDriver {
            gpu,
            facts,
            device: Device::new(config),
            used: 0,
            allocations: HashMap::new(),
            modules: Vec::new(),
            functions: Vec::new(),
            recording: None,
            graphs: Vec::new(),
            streams: 0,
            counts: Counts::default(),
        }
    }

    /// What it ran; the handle stays valid when the driver is given away.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    fn not_while_capturing(&self, call: &'static str) -> Result<(), GpuError> {
        match self.recording {
            None => Ok(()),
            Some(_) => Err(GpuError::Call { call, what: "only launches can be captured".into() }),
        }
    }

    fn run(&mut self, launches: &[Recorded]) -> Result<(), GpuError> {
        self.streams += 1;
        let seed = self.gpu.seed.wrapping_add(self.streams.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let options = Options { seed, step_limit: self.gpu.step_limit, cooperative: false };
        let launches: Vec<emu::Launch<'_>> = launches
            .iter()
            .map(|l| {
                let (module, kernel) = &self.functions[l.function.0 as usize];
                emu::Launch {
                    module: &self.modules[*module],
                    kernel,
                    grid: [l.grid, 1, 1],
                    block: [l.threads, 1, 1],
                    dynamic_shared: l.shared_bytes as usize,
                    args: l.params.iter().map(|value| Arg::U64(*value)).collect(),
                    dependent: l.dependent,
                }
            })
            .collect();
        let stats = self.device.stream(&launches, &options).map_err(kernel_fault)?;
        let mut counts = self.counts.lock();
        for (launch, stats) in launches.iter().zip(stats) {
            let c = counts.entry(launch.kernel.to_string()).or_default();
            c.launches += 1;
            c.dependent += u64::from(launch.dependent);
            c.instructions += stats.total();
            c.global_read += stats.global_read;
            c.global_written += stats.global_written;
            c.bank_conflicts += stats.bank_conflicts;
        }
        Ok(())
    }
}

fn kernel_fault(fault: Fault) -> GpuError {
    GpuError::Kernel { kernel: fault.kernel.clone(), what: fault.to_string() }
}

/// A mistake of the host: nothing that a kernel did.
fn host_fault(call: &'static str) -> impl Fn(Fault) -> GpuError {
    move |fault| match fault.kind {
        FaultKind::OutOfBounds | FaultKind::Uninitialised | FaultKind::Misaligned => {
            GpuError::Call { call, what: fault.message }
        }
        _ => kernel_fault(fault),
    }
}

impl GpuDriver for EmulatedDriver {
    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn free_memory(&mut self) -> Result<u64, GpuError> {
        Ok(self.gpu.memory_bytes - self.used)
    }

    fn load(&mut self, code: Code<'_>) -> Result<ModuleId, GpuError> {
        self.not_while_capturing("load")?;
        let Code::Ptx(text) = code else {
            return Err(GpuError::Refused { log: "the emulator runs text, no machine code".into() });
        };
        let module = Module::parse(text).map_err(|e| GpuError::Refused { log: e.to_string() })?;
        if !Sm::parse(module.target()).is_some_and(|sm| sm.runs_on(self.gpu.sm)) {
            let (compiled, name) = (module.target().to_string(), self.facts.name.clone());
            return Err(GpuError::WrongArch { compiled, device: self.gpu.sm, name });
        }
        self.modules.push(module);
        Ok(ModuleId(self.modules.len() as u32 - 1))
    }

    fn function(&mut self, module: ModuleId, name: &str) -> Result<FunctionId, GpuError> {
        let index = module.0 as usize;
        if !self.modules[index].kernels().any(|kernel| kernel == name) {
            return Err(GpuError::Refused { log: format!("there is no kernel {name}") });
        }
        self.functions.push((index, name.to_string()));
        Ok(FunctionId(self.functions.len() as u32 - 1))
    }

    fn alloc(&mut self, what: &'static str, bytes: u64) -> Result<u64, GpuError> {
        let available = self.gpu.memory_bytes - self.used;
        if bytes > available {
            return Err(GpuError::OutOfMemory { what, need: bytes, available });
        }
        let DevicePtr(address) = self.device.alloc(what, bytes as usize);
        self.used += bytes;
        self.allocations.insert(address, bytes);
        Ok(address)
    }

    fn free(&mut self, address: u64) -> Result<(), GpuError> {
        let Some(bytes) = self.allocations.remove(&address) else {
            return Err(GpuError::Call { call: "free", what: format!("{address:#x} was not allocated") });
        };
        self.used -= bytes;
        Ok(())
    }

    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), GpuError> {
        self.not_while_capturing("upload")?;
        self.device.write(DevicePtr(to), bytes).map_err(host_fault("upload"))
    }

    fn download(&mut self, from: u64, out: &mut [u8]) -> Result<(), GpuError> {
        self.not_while_capturing("download")?;
        out.copy_from_slice(&self.device.read(DevicePtr(from), out.len()).map_err(host_fault("download"))?);
        Ok(())
    }

    fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<(), GpuError> {
        self.not_while_capturing("copy")?;
        let data = self.device.read(DevicePtr(from), bytes as usize).map_err(host_fault("copy"))?;
        self.device.write(DevicePtr(to), &data).map_err(host_fault("copy"))
    }

    fn zero(&mut self, to: u64, bytes: u64) -> Result<(), GpuError> {
        self.not_while_capturing("zero")?;
        self.device.write(DevicePtr(to), &vec![0; bytes as usize]).map_err(host_fault("zero"))
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), GpuError> {
        let recorded = Recorded {
            function: launch.function,
            grid: launch.grid,
            threads: launch.threads,
            shared_bytes: launch.shared_bytes,
            params: launch.params.to_vec(),
            dependent: launch.dependent,
        };
        match &mut self.recording {
            Some(recording) => recording.push(recorded),
            None => self.run(&[recorded])?,
        }
        Ok(())
    }

    fn begin_capture(&mut self) -> Result<(), GpuError> {
        self.not_while_capturing("begin_capture")?;
        self.recording = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&mut self) -> Result<GraphId, GpuError> {
        let Some(recorded) = self.recording.take() else {
            return Err(GpuError::Call { call: "end_capture", what: "nothing is being captured".into() });
        };
        self.graphs.push(recorded);
        Ok(GraphId(self.graphs.len() as u32 - 1))
    }

    fn replay(&mut self, graph: GraphId) -> Result<(), GpuError> {
        self.not_while_capturing("replay")?;
        let launches = self.graphs[graph.0 as usize].clone();
        self.run(&launches)
    }

    /// No time of any GPU: it is made of what was counted, the same for the same launches, so that more work takes longer.
    fn time(&mut self, graph: GraphId) -> Result<u64, GpuError> {
        let before = self.counts.nanos();
        self.replay(graph)?;
        Ok(self.counts.nanos().saturating_sub(before))
    }

    fn forget(&mut self, graph: GraphId) -> Result<(), GpuError> {
        self.graphs[graph.0 as usize] = Vec::new();
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), GpuError> {
        self.not_while_capturing("synchronize")
    }
}
