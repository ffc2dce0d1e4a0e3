//! Broadcasts from memory: which scalar loads are emitted where they are splatted.
//!
//! A scalar that is loaded only to be splatted never needs a general register. Moved to its splat and used once, the
//! load becomes the memory operand of the broadcast instruction.

use std::collections::HashMap;

use tilewright_ir::kernel::{Block, Imm, Inst, Kernel, Opcode, Value};

/// A load that waits for its splat.
#[derive(Clone, Copy, Debug)]
pub(super) struct Folded {
    pub(super) pointer: Value,
    pub(super) bytes: i64,
    /// The splat is used once, by an instruction that reads it once, so each of its pieces may be loaded by itself.
    pub(super) once: bool,
}

/// The loads to move, by their value.
pub(super) fn folded(kernel: &Kernel) -> HashMap<Value, Folded> {
    let mut uses = vec![0u32; kernel.types.len()];
    count_uses(&kernel.body, &mut uses);
    let mut out = HashMap::new();
    in_block(kernel, &kernel.body, &uses, &mut out);
    out
}

fn count_uses(block: &Block, uses: &mut [u32]) {
    for inst in &block.insts {
        inst.args.iter().for_each(|a| uses[a.0 as usize] += 1);
        inst.blocks.iter().for_each(|b| count_uses(b, uses));
    }
    block.yields.iter().for_each(|v| uses[v.0 as usize] += 1);
}

fn in_block(kernel: &Kernel, block: &Block, uses: &[u32], out: &mut HashMap<Value, Folded>) {
    let once = |v: Value| uses[v.0 as usize] == 1;
    // Loads since the last instruction that may write memory.
    let mut loads: HashMap<Value, (Value, i64)> = HashMap::new();
    for (i, inst) in block.insts.iter().enumerate() {
        match (inst.op, &inst.args[..], &inst.results[..], inst.imm) {
            (Opcode::Load, &[pointer], &[r], Imm::Int(bytes)) if kernel.ty(r).lanes == 1 && once(r) => {
                loads.insert(r, (pointer, bytes));
            }
            (Opcode::Splat, &[scalar], &[r], _) => {
                if let Some(&(pointer, bytes)) = loads.get(&scalar) {
                    let once = once(r) && block.insts[i + 1..].iter().any(|next| reads_once(next, r));
                    out.insert(scalar, Folded { pointer, bytes, once });
                }
            }
            (Opcode::Store | Opcode::For | Opcode::If, ..) => {
                loads.clear();
                inst.blocks.iter().for_each(|b| in_block(kernel, b, uses, out));
            }
            _ => {}
        }
    }
}

/// `dot4_us` becomes a tree that reads its operands twice, and a bitcast stands for its user.
fn reads_once(inst: &Inst, v: Value) -> bool {
    inst.args.contains(&v) && !matches!(inst.op, Opcode::Dot4 | Opcode::Bitcast)
}
