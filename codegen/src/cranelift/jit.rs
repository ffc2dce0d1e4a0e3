//! Kernels compiled into this process, for tests and tuning.

use std::collections::HashMap;
use std::mem::ManuallyDrop;

use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::default_libcall_names;
use tilewright_ir::kernel::{Kernel, Type};

use super::{Cranelift, define, internal, make_isa};
use crate::backend::CodegenError;
use crate::target::Target;

/// A compiled kernel: pointer parameters, `i64` parameters, chunk.
pub type KernelFn = unsafe extern "sysv64" fn(*const *mut u8, *const i64, i64);

struct Entry {
    code: KernelFn,
    pointers: usize,
    scalars: usize,
}

/// Compiled kernels and the memory their code lies in.
pub struct Jit {
    entries: HashMap<String, Entry>,
    module: ManuallyDrop<JITModule>,
}

impl Jit {
    /// Compiles `kernels` for `target`, which this machine must be.
    pub fn compile(kernels: &[Kernel], target: &Target) -> Result<Jit, CodegenError> {
        let missing = target.features_missing_on_host();
        if !missing.is_empty() {
            let reason = format!("this machine lacks {}", missing.join(", "));
            return Err(CodegenError::Target { target: target.name.clone(), reason });
        }
        let builder = JITBuilder::with_isa(make_isa(target, false)?, default_libcall_names());
        // From here on the code memory is freed by `drop`.
        let mut jit = Jit { entries: HashMap::new(), module: ManuallyDrop::new(JITModule::new(builder)) };
        let ids = define(&Cranelift, &mut *jit.module, kernels, target)?;
        jit.module.finalize_definitions().map_err(|e| internal("", &e))?;
        for (kernel, id) in kernels.iter().zip(ids) {
            let code = jit.module.get_finalized_function(id);
            // SAFETY: the code was generated with the signature of `KernelFn`.
            let code = unsafe { std::mem::transmute::<*const u8, KernelFn>(code) };
            let pointers = kernel.params.iter().filter(|p| kernel.ty(p.value) == Type::PTR).count();
            let entry = Entry { code, pointers, scalars: kernel.params.len() - pointers };
            jit.entries.insert(kernel.name.clone(), entry);
        }
        Ok(jit)
    }

    /// The code of a kernel, valid as long as `self`.
    pub fn get(&self, name: &str) -> Option<KernelFn> {
        self.entries.get(name).map(|e| e.code)
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
        let entry = self.entries.get(name).ok_or_else(|| fail("no such kernel".into()))?;
        if (pointers.len(), scalars.len()) != (entry.pointers, entry.scalars) {
            return Err(fail(format!(
                "takes {} pointers and {} scalars, got {} and {}",
                entry.pointers,
                entry.scalars,
                pointers.len(),
                scalars.len()
            )));
        }
        // SAFETY: the arrays have the kernel's lengths; the caller answers for what they point to.
        unsafe { (entry.code)(pointers.as_ptr(), scalars.as_ptr(), chunk) };
        Ok(())
    }
}

impl Drop for Jit {
    fn drop(&mut self) {
        // SAFETY: taken once, here; function pointers handed out are documented to end with `self`.
        unsafe { ManuallyDrop::take(&mut self.module).free_memory() };
    }
}
