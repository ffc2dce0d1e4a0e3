//! The data of an operation on a device.

use super::{Code, Shared};
use crate::work::{GUARD, Work, is_cold};
use std::collections::HashMap;
use tilewright_runtime::cuda::{FunctionId, GpuDriver, GpuError, GraphId, Launch};

/// A sample lasts about this long.
const SAMPLE_NS: f64 = 1e6;
/// Most launches of a sample.
const MOST_LAUNCHES: usize = 4096;
/// First calls of each candidate; the first of them brings the code in.
const LOOKS: usize = 3;

/// Data of an operation: on the host as [`Work`], and the same on the device, guards and all. Dropping it frees the latter.
pub struct Placed {
    driver: Shared,
    work: Work,
    /// Of each argument, where each copy begins; one, or as many as there are copies.
    buffers: Vec<Vec<u64>>,
    /// Where the scalars of each scenario are.
    scalars: Vec<u64>,
    copies: usize,
    allocations: Vec<u64>,
    /// Launches of a sample, once that is known.
    launches: Option<usize>,
    samples: HashMap<FunctionId, GraphId>,
}

impl AsMut<Work> for Placed {
    fn as_mut(&mut self) -> &mut Work {
        &mut self.work
    }
}

impl Placed {
    pub(super) fn new(driver: Shared, work: Work, copies: usize) -> Result<Placed, GpuError> {
        let mut placed = Placed {
            driver,
            work,
            buffers: vec![],
            scalars: vec![],
            copies,
            allocations: vec![],
            launches: None,
            samples: HashMap::new(),
        };
        placed.upload()?;
        Ok(placed)
    }

    fn upload(&mut self) -> Result<(), GpuError> {
        let mut driver = self.driver.borrow_mut();
        let mut place = |bytes: u64| {
            let at = driver.alloc("the data of a call", bytes)?;
            self.allocations.push(at);
            Ok::<u64, GpuError>(at)
        };
        let mut cold = vec![];
        for (operand, image) in self.work.images() {
            let bytes = image.len() as u64;
            cold.push(is_cold(operand));
            let copies = if is_cold(operand) { self.copies } else { 1 };
            self.buffers.push((0..copies).map(|_| place(bytes)).collect::<Result<_, _>>()?);
        }
        for s in 0..self.work.scenarios().len() {
            self.scalars.push(place(8 * self.work.values(s).len().max(1) as u64)?);
        }
        for (at, (_, image)) in self.buffers.iter().zip(self.work.images()) {
            driver.upload(at[0], image)?;
            for &copy in &at[1..] {
                driver.copy(copy, at[0], image.len() as u64)?;
            }
        }
        for (s, &at) in self.scalars.iter().enumerate() {
            let bytes: Vec<u8> = self.work.values(s).iter().flat_map(|v| v.to_le_bytes()).collect();
            if !bytes.is_empty() {
                driver.upload(at, &bytes)?;
            }
        }
        driver.synchronize()
    }

    /// What a kernel is given: all pointers, then the address of each scalar.
    fn params(&self, copy: usize, scenario: usize) -> Vec<u64> {
        let pointers = self.buffers.iter().map(|all| all[copy % all.len()] + GUARD as u64);
        let scalars = (0..self.work.values(scenario).len() as u64).map(|i| self.scalars[scenario] + 8 * i);
        pointers.chain(scalars).collect()
    }

    fn launch(&self, driver: &mut dyn GpuDriver, code: &Code, i: usize, scenario: usize) -> Result<(), GpuError> {
        let dependent = i > 0 && code.launch.waits && driver.facts().overlaps();
        driver.launch(&Launch {
            function: code.function,
            grid: code.grid,
            threads: code.launch.threads,
            shared_bytes: code.launch.shared_bytes,
            params: &self.params(i, scenario),
            dependent,
        })
    }

    /// Runs `code` once, on the host's data as far as it is written, and brings back what it wrote.
    pub(super) fn call(&mut self, code: &Code, scenario: usize) -> Result<(), GpuError> {
        let driver = self.driver.clone();
        let mut driver = driver.borrow_mut();
        for (at, (operand, image)) in self.buffers.iter().zip(self.work.images()) {
            if operand.written {
                driver.upload(at[0], image)?;
            }
        }
        self.launch(&mut **driver, code, 0, scenario)?;
        for (at, (operand, image)) in self.buffers.iter().zip(self.work.images()) {
            if operand.written {
                driver.download(at[0], image)?;
            }
        }
        Ok(())
    }

    /// Records so many launches, scenario after scenario.
    fn capture(&self, code: &Code, launches: usize) -> Result<GraphId, GpuError> {
        let mut driver = self.driver.borrow_mut();
        let scenarios = self.work.scenarios().len();
        driver.begin_capture()?;
        let launched = (0..launches).try_for_each(|i| self.launch(&mut **driver, code, i, i % scenarios));
        let graph = driver.end_capture();
        launched.and(graph)
    }

    /// Nanoseconds of a call at first sight: each scenario once.
    pub(super) fn look(&mut self, code: &Code) -> Result<f64, GpuError> {
        let scenarios = self.work.scenarios().len();
        // Counters are zero in the beginning, and left so by every call.
        if self.samples.is_empty() {
            self.clear()?;
        }
        let graph = self.capture(code, scenarios)?;
        let mut driver = self.driver.borrow_mut();
        let mut fastest = u64::MAX;
        for look in 0..LOOKS {
            let ns = driver.time(graph)?;
            fastest = if look == 0 { fastest } else { fastest.min(ns) };
        }
        driver.forget(graph)?;
        Ok(fastest as f64 / scenarios as f64)
    }

    fn clear(&mut self) -> Result<(), GpuError> {
        self.work.clear();
        let mut driver = self.driver.borrow_mut();
        for (at, (operand, image)) in self.buffers.iter().zip(self.work.images()) {
            if operand.written {
                driver.upload(at[0], image)?;
            }
        }
        Ok(())
    }

    /// Nanoseconds of a call, of one sample. `fastest` is what a call takes of the fastest candidate: all candidates of an
    /// operation have samples of as many launches as the first batch asked for.
    pub(super) fn sample(&mut self, code: &Code, fastest: f64) -> Result<f64, GpuError> {
        let scenarios = self.work.scenarios().len();
        let once_around = self.copies.next_multiple_of(scenarios);
        let enough = (SAMPLE_NS / fastest.max(1.0)) as usize;
        let most = MOST_LAUNCHES.max(once_around);
        let launches = *self.launches.get_or_insert_with(|| {
            enough.next_multiple_of(scenarios).clamp(once_around, most.next_multiple_of(scenarios))
        });
        let graph = match self.samples.get(&code.function) {
            Some(graph) => *graph,
            None => {
                let graph = self.capture(code, launches)?;
                self.samples.insert(code.function, graph);
                graph
            }
        };
        Ok((self.driver.borrow_mut().time(graph)?.max(1)) as f64 / launches as f64)
    }
}

impl Drop for Placed {
    /// What fails here fails because the device is gone, and everything on it.
    fn drop(&mut self) {
        let mut driver = self.driver.borrow_mut();
        for graph in self.samples.values() {
            let _ = driver.forget(*graph);
        }
        for &address in &self.allocations {
            let _ = driver.free(address);
        }
    }
}
