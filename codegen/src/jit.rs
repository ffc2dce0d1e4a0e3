//! Kernels compiled into this process, for tests and tuning: the object a back end makes, through the loader that
//! artifacts use.

use std::collections::HashMap;

use tilewright_ir::kernel::{Kernel, Type};
use tilewright_runtime::loader::{KernelFn, Kernels};

use crate::backend::{Backend, CodegenError};
use crate::target::Target;

/// Compiled kernels and the memory their code lies in.
pub struct Jit {
    kernels: Kernels,
    /// Pointers and scalars of each.
    arity: HashMap<String, (usize, usize)>,
}

impl Jit {
    /// Compiles `kernels` by `backend` for `target`, which this machine must be.
    pub fn compile(backend: &dyn Backend, kernels: &[Kernel], target: &Target) -> Result<Jit, CodegenError> {
        let missing = target.features_missing_on_host();
        if !missing.is_empty() {
            let reason = format!("this machine lacks {}", missing.join(", "));
            return Err(CodegenError::Target { target: target.name.clone(), reason });
        }
        let object = backend.object(kernels, target)?;
        let internal = |message: String| CodegenError::Internal { kernel: String::new(), message };
        let loaded = Kernels::load(&object).map_err(|e| internal(e.to_string()))?;
        let mut arity = HashMap::new();
        for kernel in kernels {
            if loaded.get(&kernel.name).is_none() {
                return Err(internal(format!("{} is not in the object", kernel.name)));
            }
            let pointers = kernel.params.iter().filter(|p| kernel.ty(p.value) == Type::PTR).count();
            arity.insert(kernel.name.clone(), (pointers, kernel.params.len() - pointers));
        }
        Ok(Jit { kernels: loaded, arity })
    }

    /// The code of a kernel, valid as long as `self`.
    pub fn get(&self, name: &str) -> Option<KernelFn> {
        self.kernels.get(name)
    }

    /// Runs one chunk of a kernel.
    ///
    /// # Safety
    /// Every access the kernel makes through `pointers` for these `scalars` and this `chunk` must be valid, and nobody
    /// else may access what it writes.
    pub unsafe fn call(
        &self,
        name: &str,
        pointers: &[*mut u8],
        scalars: &[i64],
        chunk: i64,
    ) -> Result<(), CodegenError> {
        let fail = |reason: String| CodegenError::Call { kernel: name.to_string(), reason };
        let code = self.get(name).ok_or_else(|| fail("no such kernel".into()))?;
        let (wanted, got) = (self.arity[name], (pointers.len(), scalars.len()));
        if got != wanted {
            let reason = format!("takes {} pointers and {} scalars, got {} and {}", wanted.0, wanted.1, got.0, got.1);
            return Err(fail(reason));
        }
        // SAFETY: the arrays have the kernel's lengths; the caller answers for what they point to.
        unsafe { code(pointers.as_ptr(), scalars.as_ptr(), chunk) };
        Ok(())
    }
}
