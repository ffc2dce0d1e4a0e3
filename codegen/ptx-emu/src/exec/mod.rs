//! Running: [`grid`] chooses who goes next, [`warp`] does one instruction of a group of lanes, and the other files hold what
//! the instructions need.

mod barrier;
mod collective;
mod copies;
mod divergence;
pub(crate) mod global;
pub(crate) mod grid;
mod matrix;
mod mbarrier;
mod memory;
mod warp;
mod wgmma;

use crate::check::init::Written;
use crate::check::race::{Clock, Shared};
use crate::check::{Bad, race};
use crate::ops::{Op, RegId};
use crate::parse::module::Kernel;
use crate::rng::Rng;
use crate::{Fault, FaultKind, Stats};
use divergence::Lanes;
use global::{Access, Global};
use std::collections::{BTreeMap, HashMap};

/// A value for each lane.
pub(crate) type Values = [u64; 32];

/// The lanes of a mask.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |l| mask >> l & 1 == 1)
}

/// What is the same for all threads of a launch.
pub(crate) struct Info<'m> {
    pub kernel: &'m Kernel,
    pub constants: &'m [u8],
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: usize,
    pub params: Vec<u8>,
    pub launch: u32,
    pub horizon: u32,
}

pub(crate) struct Warp {
    regs: Vec<Values>,
    /// Lanes for which a register was ever written.
    defined: Vec<u32>,
    pub lanes: Lanes,
    /// Index in the CTA of lane 0.
    first: u32,
    local: Vec<u8>,
    local_written: Written,
    copies: Vec<copies::Copy>,
    /// Groups that each lane committed: plain and bulk.
    committed: [[u32; 32]; 2],
    /// What a fence published, for the strong writes that follow it.
    fenced: Option<Clock>,
    /// What strong reads saw, for the fence that follows them.
    seen: Option<Clock>,
    /// What `wgmma` does with registers, in kernels that have it.
    tensor: Option<Box<wgmma::Tensor>>,
}

pub(crate) struct Cta {
    pub id: [u32; 3],
    pub warps: Vec<Warp>,
    shared: Shared,
    /// One of each warp and one of the engine of bulk copies.
    clocks: Vec<Clock>,
    barriers: Vec<barrier::Barrier>,
    mbarriers: BTreeMap<usize, mbarrier::Mbarrier>,
    pub bulk: Vec<copies::Bulk>,
    /// What releases left at addresses of shared memory.
    released: HashMap<usize, Clock>,
}

impl Cta {
    pub fn new(info: &Info<'_>, id: [u32; 3]) -> Cta {
        let k = info.kernel;
        let threads = info.block.iter().product::<u32>();
        let count = threads.div_ceil(32) as usize;
        let has = |f: fn(&Op) -> bool| k.code.iter().any(|i| f(&i.op));
        let tensor = has(Op::needs_wgmma);
        let warp = |w: usize| {
            let first = w as u32 * 32;
            let here = (threads - first).min(32);
            Warp {
                regs: vec![[0xdead_beef_dead_beef; 32]; k.reg_names.len()],
                defined: vec![0; k.reg_names.len()],
                lanes: Lanes::new(if here == 32 { u32::MAX } else { (1 << here) - 1 }),
                first,
                local: vec![0xa5; k.local_bytes * 32],
                local_written: Written::new(k.local_bytes * 32),
                copies: Vec::new(),
                committed: [[0; 32]; 2],
                fenced: None,
                seen: None,
                tensor: tensor.then(|| Box::new(wgmma::Tensor::new(k.reg_names.len()))),
            }
        };
        let mut clocks = vec![vec![0; count + 1]; count + 1];
        clocks.iter_mut().enumerate().for_each(|(i, c)| c[i] = 1);
        Cta {
            id,
            warps: (0..count).map(warp).collect(),
            shared: Shared::new(k.shared_bytes + info.dynamic_shared, count, has(Op::reads_by_proxy)),
            clocks,
            barriers: (0..16).map(|_| barrier::Barrier::default()).collect(),
            mbarriers: BTreeMap::new(),
            bulk: Vec::new(),
            released: HashMap::new(),
        }
    }
}

/// What a group does after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Goes on with the next instruction.
    Next,
    /// The same, but others should run first: this one waits for something.
    Yield,
    /// It was moved, or made to wait, by the instruction itself.
    Moved,
}

/// An instruction at work: the machine as one group of lanes sees it.
pub(crate) struct Cx<'a, 'm> {
    pub info: &'a Info<'m>,
    pub cta: &'a mut Cta,
    pub mem: &'a mut Global,
    pub stats: &'a mut Stats,
    pub rng: &'a mut Rng,
    /// The grid has not passed `griddepcontrol.wait`.
    pub pre: bool,
    /// A CTA allowed dependents to start before it waited itself.
    pub early_trigger: &'a mut bool,
    pub ticks: u64,
    pub w: usize,
    pub g: usize,
    pub pc: usize,
    pub line: u32,
    /// Lanes that take part.
    pub mask: u32,
}

impl Cx<'_, '_> {
    fn fault(&self, lane: Option<usize>, bad: Bad) -> Fault {
        match bad {
            Bad::There(fault) => *fault,
            Bad::Here(kind, message) => Fault {
                kind,
                kernel: self.info.kernel.name.clone(),
                line: self.line,
                cta: self.cta.id,
                warp: self.w as u32,
                lane: lane.map(|l| l as u32),
                message,
            },
        }
    }

    fn at(&self, lane: usize) -> impl Fn(Bad) -> Fault + use<'_> {
        move |bad| self.fault(Some(lane), bad)
    }

    fn err<T>(&self, lane: Option<usize>, kind: FaultKind, message: impl Into<String>) -> Result<T, Fault> {
        Err(self.fault(lane, Bad::new(kind, message)))
    }

    fn who(&self, lane: usize, strong: bool) -> race::Who {
        race::Who { actor: self.w, lane: lane as u8, line: self.line, strong }
    }

    /// Runs `f` on global memory, with what it needs to know of the access.
    fn global<T>(
        &mut self,
        lane: usize,
        f: impl FnOnce(&mut Global, &Access<'_>) -> Result<T, Bad>,
    ) -> Result<T, Fault> {
        let (kernel, line, cta, warp) = (&self.info.kernel.name, self.line, self.cta.id, self.w as u32);
        let (kind, lane32) = (FaultKind::DependencyWait, Some(lane as u32));
        let place = || Fault { kind, kernel: kernel.clone(), line, cta, warp, lane: lane32, message: String::new() };
        let who = Access { launch: self.info.launch, pre: self.pre, horizon: self.info.horizon, place: &place };
        f(self.mem, &who).map_err(|bad| self.fault(Some(lane), bad))
    }

    fn warp(&mut self) -> &mut Warp {
        &mut self.cta.warps[self.w]
    }

    /// The warp publishes what it did: later accesses of it are told apart from those so far.
    fn tick(&mut self) {
        self.cta.clocks[self.w][self.w] += 1;
    }

    fn set(&mut self, r: RegId, mask: u32, values: &Values) {
        let warp = self.warp();
        let reg = &mut warp.regs[r as usize];
        for l in lanes(mask) {
            reg[l] = values[l];
        }
        warp.defined[r as usize] |= mask;
        if let Some(t) = &mut warp.tensor {
            t.wrote(r);
        }
    }
}
