//! The text against the interpreter, by way of the emulator; and `ptxas`, where it is installed, on all of it.

mod control;
mod memory;
mod ops;
mod targets;
mod warp;

use std::sync::OnceLock;

use tilewright_ir::kernel::{Imm, Inst, Kernel, Opcode, Pred, Type, Value, interp, print};
use tilewright_ptx_emu::{Arg, Config, Device, Module, Options};

use super::assembler::Assembler;
use super::{Ptx, shared_bytes};
use crate::backend::Backend;
use crate::target::Target;
use crate::tests::{Case, same};

/// The targets whose texts differ.
pub(super) const TARGETS: [&str; 3] = ["sm_75", "sm_80", "sm_90"];

pub(super) fn target(name: &str) -> Target {
    Target::get(name).unwrap_or_else(|e| panic!("{e}"))
}

/// The assembler; its absence is said once, and is a failure where tests count.
pub(super) fn assembler() -> Option<&'static Assembler> {
    static FOUND: OnceLock<Option<Assembler>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let found = Assembler::find();
        if found.is_none() {
            eprintln!("ptxas: SKIPPED, it is not installed (`make cuda-tools`); no text was assembled");
        }
        found
    });
    let wanted = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(found.is_some() || !wanted, "ptxas is not installed, and CI=true");
    found.as_ref()
}

/// The text of kernels that the target can have, assembled if possible.
pub(super) fn text(kernels: &[Kernel], target: &Target) -> String {
    let object = Ptx.object(kernels, target);
    let text =
        object.unwrap_or_else(|e| panic!("{}: {e}\n{}", target.name, kernels.iter().map(print).collect::<String>()));
    if let Some(assembler) = assembler()
        && let Err(e) = assembler.assemble(&text, &target.name)
    {
        panic!("{e}\n{}", String::from_utf8_lossy(&text));
    }
    String::from_utf8(text).expect("PTX is ASCII")
}

/// Bytes of the results that differ: buffer, byte, what is there, what should be.
type Difference = (usize, usize, u8, u8);

/// Runs a kernel of a module; the buffers become what it leaves.
pub(super) fn emulate(
    text: &str,
    kernel: &Kernel,
    buffers: &mut [Vec<u8>],
    scalars: &[i64],
    blocks: i64,
    seed: u64,
) -> Result<(), String> {
    let module =
        Module::parse(text).map_err(|e| format!("{e}: {}", text.lines().nth(e.line as usize - 1).unwrap_or("")))?;
    run_module(&module, kernel, buffers, scalars, blocks, seed)
}

fn run_module(
    module: &Module,
    kernel: &Kernel,
    buffers: &mut [Vec<u8>],
    scalars: &[i64],
    blocks: i64,
    seed: u64,
) -> Result<(), String> {
    let mut device = Device::new(Config::default());
    let (mut pointers, mut numbers, mut args) = (vec![], scalars.iter(), vec![]);
    for p in &kernel.params {
        let (name, bytes) = if kernel.ty(p.value) == Type::PTR {
            (p.name.clone(), buffers[pointers.len()].clone())
        } else {
            (p.name.clone(), numbers.next().expect("a number for each i64").to_le_bytes().to_vec())
        };
        let at = device.alloc(&name, bytes.len());
        device.write(at, &bytes).map_err(|f| f.to_string())?;
        args.push(Arg::Ptr(at));
        if kernel.ty(p.value) == Type::PTR {
            pointers.push(at);
        }
    }
    let shared = shared_bytes(kernel) as usize;
    let (grid, block) = ([blocks as u32, 1, 1], [kernel.threads, 1, 1]);
    let options = Options { seed, ..Options::default() };
    device.launch(module, &kernel.name, grid, block, shared, &args, &options).map_err(|f| f.to_string())?;
    for (at, buffer) in pointers.into_iter().zip(buffers) {
        *buffer = device.read(at, buffer.len()).map_err(|f| f.to_string())?;
    }
    Ok(())
}

fn line_of(text: &str, fault: &str) -> String {
    let number = fault.split("line ").nth(1).and_then(|r| r.split([',', ':']).next()?.parse::<usize>().ok());
    number.and_then(|n| text.lines().nth(n - 1)).unwrap_or_default().to_string()
}

/// Runs a kernel of thread blocks by the interpreter and on each target that has what it needs.
pub(super) fn agree(case: &Case) {
    let (kernel, blame) = (&case.kernel, format!("TILEWRIGHT_SEED={}", case.seed));
    let mut wanted = case.buffers.clone();
    for block in 0..case.chunks {
        let run = interp::run(kernel, &mut wanted, &case.scalars, block);
        assert_eq!(run, Ok(()), "{blame}\n{}", print(kernel));
    }
    for name in TARGETS {
        let target = target(name);
        if let Err(found) = Ptx.check(kernel, &target) {
            assert!(found.iter().all(|u| u.reason.contains("needs sm_")), "{found:?}");
            continue;
        }
        let text = text(std::slice::from_ref(kernel), &target);
        for order in 0..3 {
            let mut got = case.buffers.clone();
            let seed = case.seed.wrapping_add(order);
            if let Err(e) = emulate(&text, kernel, &mut got, &case.scalars, case.chunks, seed) {
                panic!("{name}, {blame}: {e}\n{}\n{}\n{text}", line_of(&text, &e), print(kernel));
            }
            if let Some(d) = difference(case, &got, &wanted) {
                panic!("{name}, {blame}, (buffer, byte, got, wanted) {d:x?}\n{}\n{text}", print(kernel));
            }
        }
    }
}

fn difference(case: &Case, got: &[Vec<u8>], wanted: &[Vec<u8>]) -> Option<Difference> {
    let size = case.result.bytes() as usize;
    got.iter().zip(wanted).enumerate().find_map(|(k, (g, w))| {
        let mut lanes = g.chunks(size).zip(w.chunks(size)).enumerate();
        let (i, (g, w)) = lanes.find(|(_, (g, w))| !same(case.result, g, w))?;
        let at = g.iter().zip(w).position(|(a, b)| a != b).unwrap_or(0);
        Some((k, i * size + at, g[at], w[at]))
    })
}

/// A kernel of one thread a chunk as one of a block, each of whose threads computes a chunk.
pub(super) fn as_block(kernel: &Kernel, name: &str, chunks: i64) -> Kernel {
    let mut k = Kernel { name: name.into(), threads: 32, ..kernel.clone() };
    let mut value = |ty| {
        k.types.push(ty);
        Value(k.types.len() as u32 - 1)
    };
    let [thread, number, zero] = [Type::I64; 3].map(&mut value);
    let inside = value(Type::I1);
    let inst = |op, args, imm, result| Inst { op, args, imm, results: vec![result], blocks: vec![] };
    let mut top = vec![
        inst(Opcode::ThreadId, vec![], Imm::None, thread),
        inst(Opcode::Const, vec![], Imm::Int(chunks), number),
        inst(Opcode::Const, vec![], Imm::Int(0), zero),
        inst(Opcode::Cmp, vec![thread, number], Imm::Pred(Pred::Slt), inside),
    ];
    let (locals, mut rest): (Vec<Inst>, Vec<Inst>) =
        std::mem::take(&mut k.body.insts).into_iter().partition(|i| i.op == Opcode::Local);
    top.extend(locals);
    fn replace(insts: &mut [Inst], thread: Value, zero: Value) {
        for i in insts {
            if i.op == Opcode::ChunkId {
                (i.op, i.args) = (Opcode::Add, vec![thread, zero]);
            }
            i.blocks.iter_mut().for_each(|b| replace(&mut b.insts, thread, zero));
        }
    }
    replace(&mut rest, thread, zero);
    let arms = [rest, vec![]].map(|insts| tilewright_ir::kernel::Block { insts, ..Default::default() });
    top.push(Inst { op: Opcode::If, args: vec![inside], imm: Imm::None, results: vec![], blocks: arms.into() });
    k.body.insts = top;
    k
}

/// Runs the cases of the other back ends in blocks of threads, many of them in a module. Gives how many could not be run
/// because their places in memory are none for a GPU.
pub(super) fn agree_all(cases: &[Case]) -> usize {
    let mut refused = 0;
    let mut ready = vec![];
    for case in cases {
        let kernel = as_block(&case.kernel, &format!("k{}", ready.len()), case.chunks);
        let mut wanted = case.buffers.clone();
        match interp::run(&kernel, &mut wanted, &case.scalars, 0) {
            Ok(()) if Ptx.check(&kernel, &target("sm_90")).is_ok() => {
                ready.push((Case { kernel, chunks: 1, ..case.clone() }, wanted));
            }
            Ok(()) => refused += 1,
            Err(interp::InterpError::Fault { fault: interp::Fault::Misaligned { .. }, .. }) => refused += 1,
            Err(e) => panic!("TILEWRIGHT_SEED={}: {e}\n{}", case.seed, print(&kernel)),
        }
    }
    let idle = ready.iter().filter(|(case, wanted)| case.buffers == *wanted).count();
    assert!(4 * idle <= ready.len(), "{idle} of {} kernels do nothing", ready.len());
    for part in ready.chunks(64) {
        for name in TARGETS {
            let kernels: Vec<Kernel> = part.iter().map(|(case, _)| case.kernel.clone()).collect();
            let text = text(&kernels, &target(name));
            let module = Module::parse(&text);
            let module = module.unwrap_or_else(|e| panic!("{name}: {e}: {:?}", text.lines().nth(e.line as usize - 1)));
            for (case, wanted) in part {
                let alone = || {
                    let text = Ptx.object(std::slice::from_ref(&case.kernel), &target(name)).unwrap_or_default();
                    format!(
                        "TILEWRIGHT_SEED={}\n{}\n{}",
                        case.seed,
                        print(&case.kernel),
                        String::from_utf8_lossy(&text)
                    )
                };
                let mut got = case.buffers.clone();
                if let Err(e) = run_module(&module, &case.kernel, &mut got, &case.scalars, 1, case.seed) {
                    panic!("{name}: {e}: {}\n{}", line_of(&text, &e), alone());
                }
                if let Some(d) = difference(case, &got, wanted) {
                    panic!("{name}: (buffer, byte, got, wanted) {d:x?}\n{}", alone());
                }
            }
        }
    }
    refused
}
