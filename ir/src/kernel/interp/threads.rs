//! Threads of a block: who takes part in a branch or a round of a loop, and the ops that many of them do together.

use smallvec::{SmallVec, smallvec};

use super::super::{Inst, Opcode, Scalar, Type, Value, WARP, WARP_GROUP, WGMMA_ALIGN, WGMMA_COLUMN};
use super::lanes::Lanes;
use super::{Fault, InterpError, Machine, Region, address, int_imm, region_and_offset};

/// Threads by number, rising.
pub(super) type Threads = SmallVec<[u32; 32]>;

impl Machine<'_> {
    /// Each thread takes its arm; those of the first go first.
    pub(super) fn branch(&mut self, inst: &Inst, active: &Threads) -> Result<(), InterpError> {
        let mut arms = [Threads::new(), Threads::new()];
        for &thread in active {
            self.thread = thread;
            arms[usize::from(self.scalar(inst.args[0]) == 0)].push(thread);
        }
        for (arm, threads) in inst.blocks.iter().zip(&arms) {
            if threads.is_empty() {
                continue;
            }
            self.block(arm, threads)?;
            for &thread in threads {
                self.thread = thread;
                self.copy_all(&arm.yields, &inst.results);
            }
        }
        Ok(())
    }

    /// Rounds until no thread is left; each counts for itself.
    pub(super) fn for_loop(&mut self, inst: &Inst, active: &Threads) -> Result<(), InterpError> {
        let body = &inst.blocks[0];
        let mut counts: SmallVec<[(u32, i64, i64); 32]> = active
            .iter()
            .map(|&thread| {
                self.thread = thread;
                self.copy_all(&inst.args[2..], &body.params[1..]);
                (thread, self.scalar(inst.args[0]) as i64, self.scalar(inst.args[1]) as i64)
            })
            .collect();
        loop {
            counts.retain(|(_, i, end)| *i < *end);
            if counts.is_empty() {
                break;
            }
            let now: Threads = counts.iter().map(|c| c.0).collect();
            for &(thread, i, _) in &counts {
                self.thread = thread;
                self.set(body.params[0], smallvec![i as u64]);
            }
            self.block(body, &now)?;
            for (thread, i, end) in &mut counts {
                self.thread = *thread;
                self.copy_all(&body.yields, &body.params[1..]);
                match i.checked_add(int_imm(inst)) {
                    Some(next) => *i = next,
                    None => *end = i64::MIN,
                }
            }
        }
        for &thread in active {
            self.thread = thread;
            self.copy_all(&body.params[1..], &inst.results);
        }
        Ok(())
    }

    /// An op of the whole block, or of each group of warps, or each warp, that takes part.
    pub(super) fn together(&mut self, inst: &Inst, active: &Threads) -> Result<(), Fault> {
        let all = match inst.op {
            Opcode::Barrier => self.kernel.threads,
            Opcode::WgmmaF16 => WARP_GROUP,
            _ => WARP,
        };
        for group in active.chunk_by(|a, b| a / all == b / all) {
            if group.len() != all as usize {
                return Err(Fault::Diverged { active: group.len(), all: all as usize });
            }
            let results: Vec<Lanes> = match inst.op {
                Opcode::Barrier => continue,
                Opcode::Shuffle => {
                    let of = |&t: &u32| self.of(t ^ int_imm(inst) as u32, inst.args[0]).clone();
                    group.iter().map(of).collect()
                }
                Opcode::LoadMatrix => self.load_matrix(inst, group)?,
                Opcode::WgmmaF16 => self.wgmma(inst, group)?,
                _ => self.mma(inst, group),
            };
            for (&thread, lanes) in group.iter().zip(results) {
                self.thread = thread;
                self.set(inst.results[0], lanes);
            }
        }
        Ok(())
    }

    /// The value `v` of a thread.
    fn of(&self, thread: u32, v: Value) -> &Lanes {
        &self.values[thread as usize * self.kernel.types.len() + v.0 as usize]
    }

    fn mma(&self, inst: &Inst, warp: &[u32]) -> Vec<Lanes> {
        let numbers = self.precision;
        let half = if inst.op == Opcode::MmaF16 { Scalar::F16 } else { Scalar::BF16 };
        let number = |lane: usize, arg: usize, i: usize| {
            let s = if arg == 0 { Scalar::F32 } else { half };
            numbers.get(s, self.of(warp[lane], inst.args[arg])[i])
        };
        // Which lane holds an element of a (16 x 16) and of b (16 x 8), and as which of its own.
        let a = |row: usize, k: usize| number(row % 8 * 4 + k % 8 / 2, 1, k % 2 + row / 8 * 2 + k / 8 * 4);
        let b = |k: usize, col: usize| number(col * 4 + k % 8 / 2, 2, k % 2 + k / 8 * 2);
        let result = |lane: usize| {
            let element = |i: usize| {
                let (row, col) = (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
                let sum: f64 = (0..16).map(|k| a(row, k) * b(k, col)).sum();
                numbers.put(Scalar::F32, sum + number(lane, 0, i))
            };
            (0..4).map(element).collect()
        };
        (0..WARP as usize).map(result).collect()
    }

    fn wgmma(&mut self, inst: &Inst, group: &[u32]) -> Result<Vec<Lanes>, Fault> {
        let (c, a, b) = (inst.args[0], inst.args[1], inst.args[2]);
        let place = self.of(group[0], b)[0];
        if let Some(&other) = group.iter().find(|&&t| self.of(t, b)[0] != place) {
            return Err(Fault::Apart { threads: [group[0], other] });
        }
        self.thread = group[0];
        self.aligned(b, 0, WGMMA_ALIGN)?;
        let sums = usize::from(self.kernel.ty(c).lanes);
        let numbers = self.precision;
        // Row by row of 16: what each column has.
        let mut columns = Vec::with_capacity(2 * sums);
        for column in 0..2 * sums {
            let mut all = Vec::with_capacity(16);
            for piece in 0..2 {
                let piece = (int_imm(inst) as usize * 2 + piece) ^ (column % 8);
                let bytes = self.read(b, (column * WGMMA_COLUMN + piece * 16) as i64, 16)?;
                let number = |b: &[u8]| numbers.get(Scalar::F16, u16::from_le_bytes([b[0], b[1]]).into());
                all.extend(bytes.chunks_exact(2).map(number));
            }
            columns.push(all);
        }
        let mut out = Vec::with_capacity(group.len());
        for warp in group.chunks(WARP as usize) {
            // A row's element k is with the lane and in the place that `mma` says.
            let row = |row: usize| -> Vec<f64> {
                let at = |k: usize| (warp[row % 8 * 4 + k % 8 / 2], k % 2 + row / 8 * 2 + k / 8 * 4);
                (0..16).map(|k| numbers.get(Scalar::F16, self.of(at(k).0, a)[at(k).1])).collect()
            };
            let rows: Vec<Vec<f64>> = (0..16).map(row).collect();
            for (lane, &thread) in warp.iter().enumerate() {
                let element = |i: usize| {
                    let (row, column) = (lane / 4 + i % 4 / 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2);
                    let sum: f64 = rows[row].iter().zip(&columns[column]).map(|(x, y)| x * y).sum();
                    numbers.put(Scalar::F32, sum + numbers.get(Scalar::F32, self.of(thread, c)[i]))
                };
                out.push((0..sums).map(element).collect());
            }
        }
        Ok(out)
    }

    fn load_matrix(&mut self, inst: &Inst, warp: &[u32]) -> Result<Vec<Lanes>, Fault> {
        let matrices = usize::from(self.kernel.ty(inst.results[0]).lanes) / 2;
        let mut rows = vec![];
        for &thread in &warp[..8 * matrices] {
            self.thread = thread;
            self.aligned(inst.args[0], 0, 16)?;
            let bytes = self.read(inst.args[0], 0, 16)?;
            rows.push(bytes.chunks_exact(2).map(|b| u64::from(u16::from_le_bytes([b[0], b[1]]))).collect::<Lanes>());
        }
        let transposed = int_imm(inst) == 1;
        let element = |m: usize, row: usize, col: usize| {
            let (row, col) = if transposed { (col, row) } else { (row, col) };
            rows[m * 8 + row][col]
        };
        let of = |lane: usize| (0..2 * matrices).map(|i| element(i / 2, lane / 4, lane % 4 * 2 + i % 2)).collect();
        Ok((0..WARP as usize).map(of).collect())
    }

    /// The one memory that a `shared` gives to all threads.
    pub(super) fn shared_memory(&mut self, result: Value, size: usize) -> u64 {
        if let Some(&address) = self.shared.get(&result) {
            return address;
        }
        self.regions.push(Region::Local(vec![0; size], vec![false; size]));
        let new = address(self.regions.len() - 1, 0);
        self.shared.insert(result, new);
        new
    }

    /// Checks the alignment of a read or write of a `ty`.
    pub(super) fn access(&self, pointer: Value, imm: i64, ty: Type) -> Result<(), Fault> {
        if self.kernel.threads == 0 { Ok(()) } else { self.aligned(pointer, imm, ty.bytes().min(16) as usize) }
    }

    pub(super) fn aligned(&self, pointer: Value, imm: i64, bytes: usize) -> Result<(), Fault> {
        let (region, offset) = region_and_offset(self.scalar(pointer));
        let offset = offset.saturating_add(imm);
        if offset.rem_euclid(bytes as i64) == 0 {
            return Ok(());
        }
        Err(Fault::Misaligned { region: self.region_name(region), offset, bytes })
    }
}
