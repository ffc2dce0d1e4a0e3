//! Loads, stores and atomics.

use super::{Cx, Flow, Values, lanes};
use crate::check::race::join;
use crate::check::{Bad, bounds};
use crate::ops::{self, Addr, AtomOp, Order, RegId, Space, Src};
use crate::ty::Ty;
use crate::{Fault, FaultKind};

/// The space that a generic address points into, and the address there.
fn resolve(space: Space, address: u64) -> (Space, u64) {
    if space != Space::Generic {
        return (space, address);
    }
    let windows = [
        (ops::SHARED_WINDOW, Space::Shared),
        (ops::LOCAL_WINDOW, Space::Local),
        (ops::CONST_WINDOW, Space::Const),
        (ops::PARAM_WINDOW, Space::Param),
    ];
    let hit = windows.iter().find(|(w, _)| address >> 56 == w >> 56);
    hit.map_or((Space::Global, address), |(w, s)| (*s, address - w))
}

impl Cx<'_, '_> {
    /// Addresses of all lanes.
    pub(super) fn addresses(&self, a: &Addr) -> Result<Values, Fault> {
        let mask = if a.short { u32::MAX.into() } else { u64::MAX };
        Ok(self.src(a.base)?.map(|b| b.wrapping_add(a.offset as u64) & mask))
    }

    /// Offset in shared memory of `n` bytes there, of which accesses have `align`. `window`: the address is generic.
    pub(super) fn shared_at(&self, lane: usize, address: u64, n: usize, align: usize) -> Result<usize, Fault> {
        let (_, address) = match address >> 56 {
            0 => (Space::Shared, address),
            _ => resolve(Space::Generic, address),
        };
        let at = bounds::within("shared", address, n, self.cta.shared.data.len()).map_err(self.at(lane))?;
        bounds::aligned(address, align).map_err(self.at(lane))?;
        Ok(at)
    }

    fn local_at(&self, lane: usize, address: u64, n: usize) -> Result<usize, Fault> {
        let size = self.info.kernel.local_bytes;
        let at = bounds::within("local", address, n, size).map_err(self.at(lane))?;
        bounds::aligned(address, n).map_err(self.at(lane))?;
        Ok(lane * size + at)
    }

    pub(super) fn read_shared(&mut self, lane: usize, at: usize, out: &mut [u8], order: Order) -> Result<(), Fault> {
        let who = self.who(lane, order.strong);
        let n = out.len();
        self.observe(at, order);
        let cta = &mut *self.cta;
        let result = cta.shared.read(who, at, n, &cta.clocks[self.w]);
        result.map_err(self.at(lane))?;
        out.copy_from_slice(&self.cta.shared.data[at..at + n]);
        self.stats.shared_read += n as u64;
        Ok(())
    }

    pub(super) fn write_shared(&mut self, lane: usize, at: usize, bytes: &[u8], order: Order) -> Result<(), Fault> {
        let who = self.who(lane, order.strong);
        let cta = &mut *self.cta;
        let result = cta.shared.write(who, at, bytes.len(), Some(bytes), &cta.clocks[self.w]);
        result.map_err(self.at(lane))?;
        let shared = &mut self.cta.shared;
        shared.data[at..at + bytes.len()].copy_from_slice(bytes);
        shared.written.set(at, bytes.len());
        self.stats.shared_written += bytes.len() as u64;
        self.publish(at, order);
        Ok(())
    }

    /// A read that may see what a release left here.
    fn observe(&mut self, at: usize, order: Order) {
        let Some(left) = self.cta.released.get(&at).filter(|_| order.strong) else { return };
        if order.acquire {
            join(&mut self.cta.clocks[self.w], left);
        } else {
            let zero = vec![0; left.len()];
            join(self.cta.warps[self.w].seen.get_or_insert(zero), left);
        }
    }

    /// A write that others may read to learn what was done before it.
    fn publish(&mut self, at: usize, order: Order) {
        if !order.strong {
            return;
        }
        let clock = match (order.release, &self.cta.warps[self.w].fenced) {
            (true, _) => self.cta.clocks[self.w].clone(),
            (false, Some(f)) => f.clone(),
            _ => return,
        };
        let zero = vec![0; clock.len()];
        join(self.cta.released.entry(at).or_insert(zero), &clock);
        self.tick();
    }

    pub(super) fn fence(&mut self) {
        let (clock, warp) = (&mut self.cta.clocks[self.w], &mut self.cta.warps[self.w]);
        if let Some(seen) = warp.seen.take() {
            join(clock, &seen);
        }
        warp.fenced = Some(clock.clone());
        self.tick();
    }

    pub(super) fn load(
        &mut self,
        space: Space,
        ty: Ty,
        dst: &[Option<RegId>],
        addr: &Addr,
        order: Order,
        constant: bool,
    ) -> Result<Flow, Fault> {
        let addresses = self.addresses(addr)?;
        let (size, n) = (ty.size(), ty.size() * dst.len());
        let mut out = vec![[0u64; 32]; dst.len()];
        let (mut buffer, mut banks) = ([0u8; 64], Vec::new());
        for l in lanes(self.mask) {
            let bytes = &mut buffer[..n];
            let (space, a) = resolve(space, addresses[l]);
            match space {
                Space::Shared => {
                    let at = self.shared_at(l, a, n, n)?;
                    self.read_shared(l, at, bytes, order)?;
                    banks.push(at as u32);
                }
                Space::Global | Space::Generic => {
                    bounds::aligned(a, n).map_err(self.at(l))?;
                    self.global(l, |m, who| m.read(a, bytes, constant, who))?;
                    self.stats.global_read += n as u64;
                }
                Space::Local => {
                    let at = self.local_at(l, a, n)?;
                    let warp = &self.cta.warps[self.w];
                    warp.local_written.check("local memory", at, n).map_err(self.at(l))?;
                    bytes.copy_from_slice(&warp.local[at..at + n]);
                }
                Space::Param | Space::Const => {
                    let (what, data) = match space {
                        Space::Param => ("parameter", self.info.params.as_slice()),
                        _ => ("constant", self.info.constants),
                    };
                    let at = bounds::within(what, a, n, data.len()).map_err(self.at(l))?;
                    bounds::aligned(a, n).map_err(self.at(l))?;
                    bytes.copy_from_slice(&data[at..at + n]);
                }
            }
            for (i, part) in bytes.chunks(size).enumerate() {
                let mut word = [0; 8];
                word[..size].copy_from_slice(part);
                // Signed values are extended to the register, which may be wider.
                let v = u64::from_le_bytes(word);
                out[i][l] = if ty.signed() { ty.extend(v) as u64 } else { v };
            }
        }
        if !banks.is_empty() {
            self.stats.banks(&banks, n, self.line);
        }
        for (d, v) in dst.iter().zip(&out) {
            if let Some(d) = d {
                let to = self.info.kernel.reg_types[*d as usize];
                self.set(*d, self.mask, &v.map(|v| to.mask(v)));
            }
        }
        Ok(Flow::Next)
    }

    pub(super) fn store(
        &mut self,
        space: Space,
        ty: Ty,
        src: &[Src],
        addr: &Addr,
        order: Order,
    ) -> Result<Flow, Fault> {
        let addresses = self.addresses(addr)?;
        let values = src.iter().map(|s| self.src(*s)).collect::<Result<Vec<_>, _>>()?;
        let n = ty.size() * src.len();
        let (mut buffer, mut banks) = ([0u8; 64], Vec::new());
        for l in lanes(self.mask) {
            for (v, out) in values.iter().zip(buffer.chunks_mut(ty.size())) {
                out.copy_from_slice(&v[l].to_le_bytes()[..ty.size()]);
            }
            let bytes = &buffer[..n];
            let (space, a) = resolve(space, addresses[l]);
            match space {
                Space::Shared => {
                    let at = self.shared_at(l, a, n, n)?;
                    self.write_shared(l, at, bytes, order)?;
                    banks.push(at as u32);
                }
                Space::Global | Space::Generic => {
                    bounds::aligned(a, n).map_err(self.at(l))?;
                    self.global(l, |m, who| m.write(a, bytes, who))?;
                    self.stats.global_written += n as u64;
                }
                Space::Local => {
                    let at = self.local_at(l, a, n)?;
                    let warp = self.warp();
                    warp.local[at..at + n].copy_from_slice(bytes);
                    warp.local_written.set(at, n);
                }
                Space::Param | Space::Const => {
                    return self.err(Some(l), FaultKind::OutOfBounds, "writes memory that is constant");
                }
            }
        }
        if !banks.is_empty() {
            self.stats.banks(&banks, n, self.line);
        }
        Ok(Flow::Next)
    }

    pub(super) fn atomic(
        &mut self,
        space: Space,
        (op, ty): (AtomOp, Ty),
        dst: Option<RegId>,
        addr: &Addr,
        [b, c]: [Src; 2],
        order: Order,
    ) -> Result<Flow, Fault> {
        let addresses = self.addresses(addr)?;
        let (b, c, n) = (self.src(b)?, self.src(c)?, ty.size());
        let mut out = [0; 32];
        // Which lane comes first is open.
        let mut turn: Vec<usize> = lanes(self.mask).collect();
        self.rng.shuffle(&mut turn);
        for l in turn {
            let mut word = [0; 8];
            let (space, a) = resolve(space, addresses[l]);
            match space {
                Space::Shared => {
                    let at = self.shared_at(l, a, n, n)?;
                    self.read_shared(l, at, &mut word[..n], order)?;
                    out[l] = u64::from_le_bytes(word);
                    let new = ops::combine(op, ty, out[l], b[l], c[l]).to_le_bytes();
                    self.write_shared(l, at, &new[..n], order)?;
                }
                Space::Global => {
                    bounds::aligned(a, n).map_err(self.at(l))?;
                    self.global(l, |m, who| m.read(a, &mut word[..n], false, who))?;
                    out[l] = u64::from_le_bytes(word);
                    let new = ops::combine(op, ty, out[l], b[l], c[l]).to_le_bytes();
                    self.global(l, |m, who| m.write(a, &new[..n], who))?;
                    self.stats.global_written += n as u64;
                }
                _ => {
                    let bad = Bad::new(FaultKind::OutOfBounds, "an atomic operation on memory that is not shared");
                    return Err(self.fault(Some(l), bad));
                }
            }
        }
        if let Some(d) = dst {
            self.set(d, self.mask, &out);
        }
        Ok(Flow::Next)
    }
}
