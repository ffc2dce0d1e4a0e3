//! The seam between a session and a GPU.

use super::error::GpuError;

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// As the vendor calls it.
    pub name: String,
    /// Compute capability, major times ten and minor: 86, 90, 120.
    pub sm: u32,
    /// Number of multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of level 2 cache.
    pub l2_bytes: u64,
    /// Most bytes of shared memory that a block can have.
    pub shared_bytes: u32,
    /// Version of CUDA that the driver knows: 12040 is 12.4.
    pub driver: u32,
    /// Whether it runs machine code, or only the text of kernels.
    pub takes_cubins: bool,
}

impl DeviceFacts {
    /// Whether a kernel's launch may overlap with the kernel before it (programmatic dependent launch), inside a graph too.
    pub fn overlaps(&self) -> bool {
        self.sm >= 90 && self.driver >= 12030
    }
}

/// A kind of GPU that code is for: `sm_80`, or `sm_90a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sm {
    /// Compute capability.
    pub number: u32,
    /// Whether the code runs on exactly this one (`a`), and not on those above.
    pub exact: bool,
}

impl Sm {
    /// Reads `sm_90a`.
    pub fn parse(name: &str) -> Option<Sm> {
        let number = name.strip_prefix("sm_")?;
        let (number, exact) = number.strip_suffix('a').map_or((number, false), |n| (n, true));
        let digits = (2..=3).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
        Some(Sm { number: number.parse().ok().filter(|_| digits)?, exact })
    }

    /// Whether a device of that compute capability runs machine code of such kernels: those of the same major number.
    pub fn code_runs_on(self, device: u32) -> bool {
        self.runs_on(device) && self.number / 10 == device / 10
    }

    /// Whether a device of that compute capability runs the text of such kernels.
    pub fn runs_on(self, device: u32) -> bool {
        if self.exact { device == self.number } else { device >= self.number }
    }
}

/// Kernels to load.
#[derive(Clone, Copy, Debug)]
pub enum Code<'a> {
    /// Text, which the driver compiles.
    Ptx(&'a str),
    /// Machine code.
    Cubin(&'a [u8]),
}

/// Loads the first of `codes` that the driver takes, and says if that is not the first: machine code may be of an assembler that
/// is newer than the driver, which then compiles the text.
pub fn load(driver: &mut dyn GpuDriver, codes: &[Code<'_>]) -> Result<(ModuleId, Option<String>), GpuError> {
    let (mut note, mut last) = (None, GpuError::Refused { log: "there is no code".into() });
    for code in codes {
        match (code, driver.load(*code)) {
            (_, Ok(module)) => return Ok((module, note)),
            (Code::Cubin(_), Err(GpuError::Refused { log })) => {
                note =
                    Some(format!("the GPU driver refuses the machine code ({log}) and compiles the PTX in its place"));
                last = GpuError::Refused { log };
            }
            (_, Err(e)) => return Err(e),
        }
    }
    Err(last)
}

/// A loaded module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModuleId(pub u32);

/// A kernel of a loaded module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FunctionId(pub u32);

/// Captured launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphId(pub u32);

/// A launch of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The kernel.
    pub function: FunctionId,
    /// Number of blocks.
    pub grid: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// Parameters, 64 bits each.
    pub params: &'a [u64],
    /// Whether it may start before the launch in front of it is over: then the kernel itself waits for it.
    pub dependent: bool,
}

/// One GPU, its memory, and one stream of work on it. Dropping it frees everything.
///
/// All work is done in the order of the calls. Only [`GpuDriver::download`], [`GpuDriver::synchronize`] and
/// [`GpuDriver::time`] wait for it, so a kernel's failure may come to light in any later call; after one nothing works any
/// more. Addresses are numbers: who gives a wrong one is told by an emulator and, at best, by a device.
pub trait GpuDriver: Send {
    /// What the device is.
    fn facts(&self) -> &DeviceFacts;

    /// Bytes that allocations can still take.
    fn free_memory(&mut self) -> Result<u64, GpuError>;

    /// Loads kernels.
    fn load(&mut self, code: Code<'_>) -> Result<ModuleId, GpuError>;

    /// A kernel by its name.
    fn function(&mut self, module: ModuleId, name: &str) -> Result<FunctionId, GpuError>;

    /// Memory with anything in it, on at least 256 bytes. `what` is for messages.
    fn alloc(&mut self, what: &'static str, bytes: u64) -> Result<u64, GpuError>;

    /// Gives back what [`GpuDriver::alloc`] gave.
    fn free(&mut self, address: u64) -> Result<(), GpuError>;

    /// From the host to the device. `bytes` may change as soon as this returns.
    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), GpuError>;

    /// From the device to the host, when all work before it is done.
    fn download(&mut self, from: u64, out: &mut [u8]) -> Result<(), GpuError>;

    /// From the device to the device.
    fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<(), GpuError>;

    /// Fills with zeros.
    fn zero(&mut self, to: u64, bytes: u64) -> Result<(), GpuError>;

    /// Launches a kernel, or records the launch while capturing.
    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), GpuError>;

    /// From here on launches are recorded and not done. Nothing but launches can be recorded.
    fn begin_capture(&mut self) -> Result<(), GpuError>;

    /// Ends the recording. Also after a launch failed, before anything else is done.
    fn end_capture(&mut self) -> Result<GraphId, GpuError>;

    /// Does what was recorded.
    fn replay(&mut self, graph: GraphId) -> Result<(), GpuError>;

    /// Does what was recorded and waits; the nanoseconds it took on the device.
    fn time(&mut self, graph: GraphId) -> Result<u64, GpuError>;

    /// Forgets what was recorded: the graph must not be used again.
    fn forget(&mut self, graph: GraphId) -> Result<(), GpuError>;

    /// Waits until everything is done.
    fn synchronize(&mut self) -> Result<(), GpuError>;
}

#[cfg(test)]
mod tests {
    use super::Sm;

    #[test]
    fn kinds_of_gpus() {
        let runs = |name: &str, device| Sm::parse(name).unwrap().runs_on(device);
        assert!(runs("sm_80", 80) && runs("sm_80", 90) && runs("sm_90a", 90) && runs("sm_80", 120));
        assert!(!runs("sm_90a", 100) && !runs("sm_90a", 86) && !runs("sm_90", 89) && !runs("sm_120", 90));
        let code = |name: &str, device| Sm::parse(name).unwrap().code_runs_on(device);
        assert!(code("sm_90a", 90) && code("sm_80", 86) && code("sm_86", 86) && code("sm_120", 121));
        assert!(!code("sm_86", 80) && !code("sm_80", 90) && !code("sm_90a", 91) && !code("sm_90", 100));
        for name in ["", "sm_", "sm_9", "sm_90b", "sm_+90", "sm_9000", "90", "sm_a"] {
            assert_eq!(Sm::parse(name), None, "{name}");
        }
    }
}
