//! A grid: which CTAs are resident, and who goes next. Both are chance, from a seed.

use super::divergence::Block;
use super::global::Global;
use super::{Cta, Cx, Flow, Info};
use crate::rng::Rng;
use crate::{Fault, FaultKind, Stats};

/// A launch on its way.
pub(crate) struct Grid<'m> {
    pub info: Info<'m>,
    /// CTAs that have not started; the last is next.
    todo: Vec<u64>,
    ctas: Vec<Cta>,
    resident: usize,
    rng: Rng,
    pub stats: Stats,
    steps: u64,
    limit: u64,
    /// Bulk copies land only when somebody waits for them.
    lazy: bool,
    /// Up to how many instructions a warp runs in a row.
    quantum: usize,
    /// Not all grids before this one are known to be over.
    pre: bool,
    /// Dependents may start before this grid waited itself.
    pub early_trigger: bool,
}

impl<'m> Grid<'m> {
    pub fn new(info: Info<'m>, resident: usize, pre: bool, seed: u64, limit: u64) -> Self {
        let mut rng = Rng::new(seed ^ u64::from(info.launch) << 32);
        let count = info.grid.iter().map(|n| u64::from(*n)).product();
        let mut todo: Vec<u64> = (0..count).collect();
        rng.shuffle(&mut todo);
        let (lazy, quantum) = (rng.chance(2), [1, 4, 32, 256][rng.below(4)]);
        Self {
            info,
            todo,
            ctas: Vec::new(),
            resident,
            rng,
            stats: Stats::default(),
            steps: 0,
            limit,
            lazy,
            quantum,
            pre,
            early_trigger: false,
        }
    }

    fn fill(&mut self) {
        let [x, y, _] = self.info.grid.map(u64::from);
        while self.ctas.len() < self.resident
            && let Some(i) = self.todo.pop()
        {
            let id = [i % x, i / x % y, i / x / y].map(|n| n as u32);
            self.ctas.push(Cta::new(&self.info, id));
        }
    }

    /// Runs what a dependent grid may do before the grids it depends on are over.
    pub fn run_early(&mut self, mem: &mut Global) -> Result<(), Fault> {
        // Somebody may poll for what the grid before will write: that must not take forever.
        self.run(mem, self.limit / 4)
    }

    /// Runs to the end.
    pub fn finish(&mut self, mem: &mut Global) -> Result<(), Fault> {
        self.pre = false;
        for cta in &mut self.ctas {
            for warp in &mut cta.warps {
                let waits = |g: &super::divergence::Group| g.block == Block::Grid;
                while let Some(g) = warp.lanes.groups.iter().position(waits) {
                    let pc = warp.lanes.groups[g].pc;
                    warp.lanes.advance(g, pc + 1);
                }
            }
        }
        self.run(mem, u64::MAX)
    }

    fn run(&mut self, mem: &mut Global, budget: u64) -> Result<(), Fault> {
        let end = self.steps.saturating_add(budget);
        loop {
            self.fill();
            let ready: Vec<usize> =
                (0..self.ctas.len()).filter(|&i| self.ctas[i].warps.iter().any(|w| w.lanes.runnable())).collect();
            if ready.is_empty() {
                let stuck = self.ctas.iter().find(|c| !self.waits_for_grid(c));
                return stuck.map_or(Ok(()), |c| Err(self.stuck(c)));
            }
            if self.steps >= end {
                return Ok(());
            }
            let i = ready[self.rng.below(ready.len())];
            self.turn(i, mem)?;
            let cta = &self.ctas[i];
            if cta.warps.iter().all(|w| w.lanes.live == 0) {
                if !cta.bulk.is_empty() {
                    let message = "the CTA ends with a bulk copy under way".to_string();
                    return Err(self.blame(cta, 0, FaultKind::MissingWait, self.end_line(), message));
                }
                self.ctas.swap_remove(i);
            } else if !cta.warps.iter().any(|w| w.lanes.runnable()) && !self.waits_for_grid(cta) {
                return Err(self.stuck(cta));
            }
        }
    }

    fn end_line(&self) -> u32 {
        self.info.kernel.code.last().map_or(0, |i| i.line)
    }

    fn waits_for_grid(&self, cta: &Cta) -> bool {
        cta.warps.iter().flat_map(|w| &w.lanes.groups).any(|g| g.block == Block::Grid)
    }

    fn blame(&self, cta: &Cta, warp: usize, kind: FaultKind, line: u32, message: String) -> Fault {
        Fault { kind, kernel: self.info.kernel.name.clone(), line, cta: cta.id, warp: warp as u32, lane: None, message }
    }

    /// Why no warp of a CTA can go on.
    fn stuck(&self, cta: &Cta) -> Fault {
        let groups = cta.warps.iter().enumerate().flat_map(|(w, warp)| warp.lanes.groups.iter().map(move |g| (w, g)));
        let mut places: Vec<_> = groups.map(|(w, g)| (w, g.block, g.pc)).collect();
        // A warp that misses lanes explains why the others wait at the barrier.
        places.sort_by_key(|(_, b, _)| (*b != Block::Members, *b != Block::WarpGroup));
        let Some(&(warp, block, pc)) = places.first() else {
            return self.blame(cta, 0, FaultKind::Deadlock, 0, "no warp is left".into());
        };
        let line = self.info.kernel.code[pc].line;
        if block == Block::Members {
            let m = "some lanes wait here for lanes of the mask that never come".to_string();
            return self.blame(cta, warp, FaultKind::Collective, line, m);
        }
        let others: Vec<String> = cta
            .warps
            .iter()
            .enumerate()
            .filter(|(w, _)| *w != warp)
            .map(|(w, other)| match other.lanes.groups.first() {
                None => format!("warp {w} has exited"),
                Some(g) => format!("warp {w} waits at line {}", self.info.kernel.code[g.pc].line),
            })
            .collect();
        if block == Block::WarpGroup {
            let m = format!("waits for the other warps of its warp group: {}", others.join(", "));
            return self.blame(cta, warp, FaultKind::Collective, line, m);
        }
        let m = format!("waits at a barrier that not all warps reach: {}", others.join(", "));
        self.blame(cta, warp, FaultKind::BarrierDivergence, line, m)
    }

    /// One warp of a CTA runs for a while.
    fn turn(&mut self, i: usize, mem: &mut Global) -> Result<(), Fault> {
        let cta = &mut self.ctas[i];
        let ready: Vec<usize> = (0..cta.warps.len()).filter(|&w| cta.warps[w].lanes.runnable()).collect();
        let w = ready[self.rng.below(ready.len())];
        let quantum = 1 + self.rng.below(self.quantum);
        let choose = |cta: &Cta, rng: &mut Rng| {
            let groups = &cta.warps[w].lanes.groups;
            let ready = groups.iter().filter(|g| g.block == Block::No).count();
            let nth = rng.below(ready);
            groups.iter().enumerate().filter(|(_, g)| g.block == Block::No).nth(nth).map(|(i, _)| i)
        };
        let Some(mut g) = choose(cta, &mut self.rng) else { return Ok(()) };
        for _ in 0..quantum {
            self.steps += 1;
            let mut cx = Cx {
                info: &self.info,
                cta: &mut self.ctas[i],
                mem: &mut *mem,
                stats: &mut self.stats,
                rng: &mut self.rng,
                pre: self.pre,
                early_trigger: &mut self.early_trigger,
                ticks: self.steps,
                w,
                g,
                pc: 0,
                line: 0,
                mask: 0,
            };
            let flow = cx.step()?;
            let (line, cta) = (cx.line, &mut self.ctas[i]);
            if self.steps >= self.limit {
                let m = format!("{} warp instructions, and no end", self.limit);
                return Err(self.blame(&self.ctas[i], w, FaultKind::StepLimit, line, m));
            }
            let groups = &cta.warps[w].lanes.groups;
            match flow {
                Flow::Yield => {
                    if !cta.bulk.is_empty() && self.rng.chance(2) {
                        cta.land_bulk(self.rng.below(cta.bulk.len()), mem);
                    }
                    break;
                }
                // One group, still running: it is the one there was.
                _ if groups.len() == 1 && groups[0].block == Block::No => g = 0,
                Flow::Next if groups.get(g).is_some_and(|g| g.block == Block::No) => {}
                _ => match choose(cta, &mut self.rng) {
                    Some(next) => g = next,
                    None => break,
                },
            }
        }
        let cta = &mut self.ctas[i];
        if !self.lazy && !cta.bulk.is_empty() && self.rng.chance(16) {
            cta.land_bulk(self.rng.below(cta.bulk.len()), mem);
        }
        Ok(())
    }
}
