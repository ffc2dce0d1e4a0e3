//! A GPU: kernels are launched as the runtime launches them, many in one graph, timed by the device's own clock.
//!
//! A sample is one graph: launches of a kernel, each on the next copy of what is cold, for about a millisecond and at least
//! once around. The copies are together more than three times the level 2 cache, so what is read comes from memory. As in
//! a step, a launch may overlap with the one before it where device and kernel can.
//!
//! Whether the driver is a device's or the emulator's makes no difference here.
//!
//! | file | what |
//! |---|---|
//! | `placed.rs` | the data of an operation on the device, calls and samples |
//! | `peaks.rs` | what the device can do at best |

mod peaks;
mod placed;

pub use peaks::bandwidth;
pub use placed::Placed;

use crate::TuneError;
use crate::candidate::Rejected;
use crate::fingerprint;
use crate::machine::{Built, Machine};
use crate::measure::{Timing, turns};
use crate::roofline::Roofline;
use crate::work::{Scenario, Work, copies};
use rayon::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;
use tilewright_codegen::ptx::{self, assembler::Assembler};
use tilewright_codegen::schedules::Operands;
use tilewright_codegen::target::Target;
use tilewright_runtime::cuda::{self, DeviceFacts, FunctionId, GpuDriver, GpuError, Sm};
use tilewright_runtime::plan::Launch;

/// A driver that the data of several operations share.
type Shared = Rc<RefCell<Box<dyn GpuDriver>>>;

/// A GPU with what makes code for it.
pub struct Gpu {
    driver: Shared,
    facts: DeviceFacts,
    target: Target,
    device: String,
    assembler: Option<Assembler>,
    roofline: Roofline,
    note: RefCell<Option<String>>,
}

/// A kernel on the device.
pub struct Code {
    function: FunctionId,
    launch: Launch,
    grid: u32,
}

/// A candidate on its way there.
struct Made {
    text: String,
    cubin: Option<Vec<u8>>,
    launch: Launch,
    grid: u32,
    name: String,
}

impl Gpu {
    /// Measures what the device can do at best. With an assembler candidates are assembled on all cores of the host, and those
    /// whose registers spill are not timed; without, the driver compiles one after the other.
    pub fn new(driver: Box<dyn GpuDriver>, target: &Target, assembler: Option<Assembler>) -> Result<Gpu, TuneError> {
        let facts = driver.facts().clone();
        if !Sm::parse(&target.name).is_some_and(|sm| sm.runs_on(facts.sm)) {
            let missing = format!("{}; its GPU is sm_{} ({})", target.name, facts.sm, facts.name);
            return Err(TuneError::Machine { target: target.name.clone(), missing });
        }
        let driver = Rc::new(RefCell::new(driver));
        let roofline = peaks::measure(&mut **driver.borrow_mut(), target)?;
        let (target, device) = (target.clone(), fingerprint::of_gpu(&facts));
        Ok(Gpu { driver, facts, target, device, assembler, roofline, note: RefCell::default() })
    }

    /// The text of a candidate, and its machine code where there is an assembler.
    fn make(built: &Built, target: &Target, assembler: Option<&Assembler>, prune: bool) -> Result<Made, Rejected> {
        let unsupported = |e: &dyn ToString| Rejected::Unsupported(e.to_string());
        let kernel = &built.kernel;
        let bytes = built.backend.object(std::slice::from_ref(kernel), target).map_err(|e| unsupported(&e))?;
        let text = String::from_utf8(bytes).map_err(|e| unsupported(&e))?;
        let mut cubin = None;
        if let Some(assembler) = assembler {
            let made = assembler.assemble(text.as_bytes(), &target.name).map_err(|e| unsupported(&e))?;
            let bytes = made.entries.iter().map(|e| e.spill_stores + e.spill_loads).sum();
            if prune && bytes > 0 {
                return Err(Rejected::Spills { bytes });
            }
            cubin = Some(made.cubin);
        }
        let (launch, name) = (ptx::launch(kernel, target), kernel.name.clone());
        Ok(Made { text, cubin, launch, grid: built.chunks, name })
    }

    fn load(&self, made: &Made) -> Result<Result<Code, Rejected>, GpuError> {
        let has = self.facts.shared_bytes;
        if made.launch.shared_bytes > has {
            let why = format!("{} bytes of shared memory; a block here has at most {has}", made.launch.shared_bytes);
            return Ok(Err(Rejected::Unsupported(why)));
        }
        let mut driver = self.driver.borrow_mut();
        let cubin = made.cubin.as_deref().filter(|_| self.facts.takes_cubins).map(cuda::Code::Cubin);
        let codes: Vec<cuda::Code<'_>> = cubin.into_iter().chain([cuda::Code::Ptx(&made.text)]).collect();
        match cuda::load(&mut **driver, &codes) {
            Ok((module, note)) => {
                // Once is enough: it is the same for every kernel.
                let mut first = self.note.borrow_mut();
                *first = first.take().or(note);
                let function = driver.function(module, &made.name)?;
                Ok(Ok(Code { function, launch: made.launch, grid: made.grid }))
            }
            Err(GpuError::Refused { log }) => Ok(Err(Rejected::Unsupported(log))),
            Err(e) => Err(e),
        }
    }
}

impl Machine for Gpu {
    type Code = Code;
    type Data = Placed;

    fn target(&self) -> &Target {
        &self.target
    }

    fn device(&self) -> &str {
        &self.device
    }

    fn threads(&self) -> u32 {
        1
    }

    fn roofline(&self) -> &Roofline {
        &self.roofline
    }

    fn note(&self) -> Option<String> {
        self.note.borrow().clone()
    }

    fn compile(&self, all: Vec<Built>, prune: bool) -> Result<Vec<Result<Code, Rejected>>, TuneError> {
        let (target, assembler) = (&self.target, self.assembler.as_ref());
        let made: Vec<_> = all.par_iter().map(|b| Gpu::make(b, target, assembler, prune)).collect();
        let load = |made: Result<Made, Rejected>| match made {
            Ok(made) => Ok(self.load(&made)?),
            Err(rejected) => Ok(Err(rejected)),
        };
        made.into_iter().map(load).collect()
    }

    fn data(&self, operands: &Operands, scenarios: &[Scenario], seed: u64, cold: bool) -> Result<Placed, TuneError> {
        let copies = if cold { copies(operands, 3 * self.facts.l2_bytes + 1) } else { 1 };
        let work = Work::new(operands, scenarios, 0, seed)?;
        Ok(Placed::new(self.driver.clone(), work, copies)?)
    }

    fn call(&self, data: &mut Placed, code: &Code, scenario: usize) -> Result<(), TuneError> {
        Ok(data.call(code, scenario)?)
    }

    fn time(
        &self,
        data: &mut Placed,
        codes: &[&Code],
        samples: usize,
        until: Instant,
    ) -> Result<Vec<Timing>, TuneError> {
        let first = codes.iter().map(|code| data.look(code)).collect::<Result<Vec<f64>, GpuError>>()?;
        let fastest = first.iter().copied().fold(f64::INFINITY, f64::min);
        turns(&first, samples, until, |i| Ok(data.sample(codes[i], fastest)?))
    }
}
