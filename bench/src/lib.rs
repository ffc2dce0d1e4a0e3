//! What benchmarks of single kernels share: a product with a packed matrix, ready to be called.

use tilewright_codegen::jit::Jit;
use tilewright_codegen::pack::Layout;
use tilewright_codegen::schedules::{Activations, Matmul, Q8Rows, Schedule, defaults};
use tilewright_codegen::target::Target;
use tilewright_codegen::x86::X86;
use tilewright_models::format::FormatSet;

/// Weights are read from copies in turn that are larger than most last-level caches together.
const COPIES_BYTES: u64 = 256 << 20;

/// A product of `tokens` rows with a matrix of zeros, packed. Time does not depend on the values.
pub struct Product {
    jit: Jit,
    chunks: u32,
    weights: Vec<Vec<u8>>,
    x: Vec<u8>,
    out: Vec<u8>,
    tokens: i64,
    turn: usize,
    /// The machine code.
    pub text: String,
}

impl Product {
    /// For `target`, int8 activations where the format takes them, at the schedule's defaults but for `set`.
    /// `cold`: weights from copies in turn that no cache holds; else the same each time.
    pub fn new(
        target: &Target,
        format: &str,
        (rows, cols): (u64, u64),
        tokens: u32,
        set: &[(String, i64)],
        cold: bool,
    ) -> Result<Product, Box<dyn std::error::Error>> {
        let declared = FormatSet::builtin().get(format).ok_or("no such format")?;
        let layout = Layout::of(declared)?;
        let bytes = layout.bytes(rows, cols);
        let f32_stride = cols * 4;
        let (x, x_bytes) = match layout.takes_q8() {
            true => (Activations::Q8, Q8Rows { width: cols }.bytes()),
            false => (Activations::F32 { stride: f32_stride }, f32_stride),
        };
        let out_stride = rows * 4;
        let schedule = Matmul { layout, rows, cols, x, bias: false, residual: None, out_stride, max_tokens: tokens };
        let mut params = defaults(&schedule.space());
        for (name, value) in set {
            *params.iter_mut().find(|(n, _)| *n == name).ok_or_else(|| format!("no parameter {name}"))?.1 = *value;
        }
        let kernel = schedule.build("product", &params);
        let jit = Jit::compile(&X86, std::slice::from_ref(&kernel), target)?;
        let copies = if cold { (COPIES_BYTES / bytes.max(1)).clamp(1, 256) } else { 1 };
        Ok(Product {
            text: X86.disassemble(&kernel, target)?,
            jit,
            chunks: schedule.chunks(&params),
            // Kernels may read a vector past the end. Ones, so that every page is there.
            weights: vec![vec![0x11; bytes as usize + 64]; copies as usize],
            x: vec![0x11; (x_bytes * u64::from(tokens)) as usize + 64],
            out: vec![0; (out_stride * u64::from(tokens)) as usize + 64],
            tokens: i64::from(tokens),
            turn: 0,
        })
    }

    /// Bytes of weights that a run reads.
    pub fn bytes(&self) -> u64 {
        self.weights[0].len() as u64 - 64
    }

    /// Runs all chunks on this thread.
    pub fn run(&mut self) {
        self.turn = (self.turn + 1) % self.weights.len();
        let pointers = [self.x.as_mut_ptr(), self.weights[self.turn].as_mut_ptr(), self.out.as_mut_ptr()];
        for chunk in 0..i64::from(self.chunks) {
            // SAFETY: the buffers have the sizes that the schedule was built for, and nobody else has them.
            unsafe { self.jit.call("product", &pointers, &[self.tokens], chunk) }.expect("the kernel's arguments");
        }
    }
}
