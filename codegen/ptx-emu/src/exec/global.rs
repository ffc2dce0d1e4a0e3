//! Global memory: named allocations, and what programmatic dependent launch makes of the order of grids.

use crate::check::{Bad, bounds, init::Written};
use crate::{Fault, FaultKind};

/// One allocation.
pub(crate) struct Alloc {
    pub name: String,
    pub data: Vec<u8>,
    pub written: Written,
    /// Number of the launch that wrote a byte, 0 for the host; empty until one does.
    writer: Vec<u32>,
    /// For each byte that a grid touched before its `griddepcontrol.wait`, a note in [`Global::notes`] plus one.
    early: Vec<u32>,
}

/// An access before `griddepcontrol.wait`, as the fault that it becomes if the grid before interferes.
struct Note {
    fault: Box<Fault>,
    write: bool,
    /// Bytes read that nothing had written yet.
    unwritten: Option<(usize, usize, usize)>,
}

/// Who accesses global memory.
pub(crate) struct Access<'a> {
    pub launch: u32,
    /// The grid has not passed `griddepcontrol.wait`.
    pub pre: bool,
    /// Launches from this one on may still be running while `pre`.
    pub horizon: u32,
    /// What a fault at this place would look like.
    pub place: &'a dyn Fn() -> Fault,
}

/// All allocations of a device.
#[derive(Default)]
pub(crate) struct Global {
    pub allocs: Vec<Alloc>,
    notes: Vec<Note>,
}

impl Global {
    pub fn alloc(&mut self, name: &str, bytes: usize) -> u64 {
        let (data, written) = (vec![0xa5; bytes], Written::new(bytes));
        self.allocs.push(Alloc { name: name.into(), data, written, writer: Vec::new(), early: Vec::new() });
        bounds::base(self.allocs.len() - 1)
    }

    pub fn find(&self, address: u64, n: usize) -> Result<(usize, usize), Bad> {
        bounds::locate(address, n, |i| self.allocs.get(i).map(|a| (a.name.as_str(), a.data.len())))
    }

    /// Checks a read and says where its bytes are.
    pub fn check_read(&mut self, address: u64, n: usize, who: &Access<'_>) -> Result<(usize, usize), Bad> {
        let (i, at) = self.find(address, n)?;
        let a = &self.allocs[i];
        if who.pre {
            let before = |w: &u32| *w >= who.horizon && *w < who.launch;
            if !a.writer.is_empty() && a.writer[at..at + n].iter().any(before) {
                let m = format!("reads `{}` at offset {at}, which a previous grid writes", a.name);
                return Err(Bad::new(FaultKind::DependencyWait, m));
            }
            let unwritten = !a.written.all(at, n);
            self.note(i, at, n, false, unwritten, who);
            return Ok((i, at));
        }
        self.interferes(i, at, n, false)?;
        let a = &self.allocs[i];
        a.written.check(&format!("`{}`", a.name), at, n)?;
        Ok((i, at))
    }

    pub fn read(&mut self, address: u64, out: &mut [u8], constant: bool, who: &Access<'_>) -> Result<(), Bad> {
        let (i, at) = self.check_read(address, out.len(), who)?;
        let a = &self.allocs[i];
        out.copy_from_slice(&a.data[at..at + out.len()]);
        if constant && !a.writer.is_empty() && a.writer[at..at + out.len()].contains(&who.launch) {
            let m = format!("ld.global.nc reads `{}` at offset {at}, which this grid writes", a.name);
            return Err(Bad::new(FaultKind::Race, m));
        }
        Ok(())
    }

    pub fn write(&mut self, address: u64, bytes: &[u8], who: &Access<'_>) -> Result<(), Bad> {
        let (i, at) = self.find(address, bytes.len())?;
        if who.pre {
            self.note(i, at, bytes.len(), true, false, who);
        } else {
            self.interferes(i, at, bytes.len(), true)?;
        }
        let a = &mut self.allocs[i];
        a.data[at..at + bytes.len()].copy_from_slice(bytes);
        a.written.set(at, bytes.len());
        if a.writer.is_empty() {
            a.writer = vec![0; a.data.len()];
        }
        a.writer[at..at + bytes.len()].fill(who.launch);
        Ok(())
    }

    /// The bytes as they are, for copies that were checked when they were issued.
    pub fn peek(&self, (i, at): (usize, usize), n: usize) -> &[u8] {
        &self.allocs[i].data[at..at + n]
    }

    fn note(&mut self, i: usize, at: usize, n: usize, write: bool, unwritten: bool, who: &Access<'_>) {
        let fault = Box::new((who.place)());
        self.notes.push(Note { fault, write, unwritten: unwritten.then_some((i, at, n)) });
        let id = self.notes.len() as u32;
        let a = &mut self.allocs[i];
        if a.early.is_empty() {
            a.early = vec![0; a.data.len()];
        }
        for e in &mut a.early[at..at + n] {
            // A write says more than a read.
            if *e == 0 || write {
                *e = id;
            }
        }
    }

    /// Did the grid that comes next touch these bytes although it had not waited?
    fn interferes(&self, i: usize, at: usize, n: usize, write: bool) -> Result<(), Bad> {
        let a = &self.allocs[i];
        if a.early.is_empty() {
            return Ok(());
        }
        for (b, &e) in a.early[at..at + n].iter().enumerate().filter(|(_, e)| **e > 0) {
            let note = &self.notes[e as usize - 1];
            if write || note.write {
                let mut fault = note.fault.clone();
                let (verb, does) =
                    (if note.write { "writes" } else { "reads" }, if write { "writes" } else { "reads" });
                fault.kind = FaultKind::DependencyWait;
                fault.message = format!("{verb} byte {} of `{}`, which the grid before {does}", at + b, a.name);
                return Err(Bad::There(fault));
            }
        }
        Ok(())
    }

    /// The grid before has ended: what was touched early was in order, unless nothing was there.
    pub fn settle(&mut self) -> Result<(), Fault> {
        for note in std::mem::take(&mut self.notes) {
            if let Some((i, at, n)) = note.unwritten
                && let Err(Bad::Here(kind, message)) =
                    self.allocs[i].written.check(&format!("`{}`", self.allocs[i].name), at, n)
            {
                return Err(Fault { kind, message, ..*note.fault });
            }
        }
        self.allocs.iter_mut().for_each(|a| a.early.clear());
        Ok(())
    }

    /// After a fault: nothing is under way any more.
    pub fn forget(&mut self) {
        self.notes.clear();
        self.allocs.iter_mut().for_each(|a| a.early.clear());
    }
}
