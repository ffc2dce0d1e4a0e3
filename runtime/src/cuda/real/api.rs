//! The functions of the driver, found by name when a GPU is opened.
//!
//! They are looked up here and not called through `cudarc`'s own wrappers, which panic where an old driver lacks a symbol
//! and take an error number that they do not know for one of an enum. Types and the search for the library are `cudarc`'s.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUjit_option, CUlaunchConfig,
    CUmodule, CUstream,
};

use crate::cuda::GpuError;

macro_rules! symbols {
    ($($name:ident($($arg:ty),*);)*) => {
        /// Functions of the driver; each gives 0 or the number of an error.
        #[expect(non_snake_case, reason = "their names")]
        pub(super) struct Api {
            $(pub(super) $name: unsafe extern "C" fn($($arg),*) -> c_int,)*
        }

        impl Api {
            /// Finds the driver and all that is needed of it.
            pub(super) fn load() -> Result<Api, GpuError> {
                // SAFETY: opens the vendor's library, whose initialiser has no conditions, and closes it.
                if !unsafe { sys::is_culib_present() } {
                    return Err(GpuError::NoDriver);
                }
                // SAFETY: as above; it was just found, so that this does not panic.
                let library = unsafe { sys::culib() };
                Ok(Api {
                    // SAFETY: the signature is that of the driver's header, and the library is never closed.
                    $($name: *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }
                        .map_err(|_| GpuError::OldDriver { what: concat!("it has no ", stringify!($name)).into() })?,)*
                })
            }
        }
    };
}

symbols! {
    cuInit(c_uint);
    cuDriverGetVersion(*mut c_int);
    cuGetErrorName(c_int, *mut *const c_char);
    cuGetErrorString(c_int, *mut *const c_char);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut CUdevice, c_int);
    cuDeviceGetName(*mut c_char, c_int, CUdevice);
    cuDeviceGetAttribute(*mut c_int, c_int, CUdevice);
    cuDeviceTotalMem_v2(*mut usize, CUdevice);
    cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice);
    cuDevicePrimaryCtxRelease_v2(CUdevice);
    cuCtxSetCurrent(CUcontext);
    cuStreamCreate(*mut CUstream, c_uint);
    cuStreamDestroy_v2(CUstream);
    cuStreamSynchronize(CUstream);
    cuStreamBeginCapture_v2(CUstream, c_uint);
    cuStreamEndCapture(CUstream, *mut CUgraph);
    cuGraphInstantiateWithFlags(*mut CUgraphExec, CUgraph, u64);
    cuGraphDestroy(CUgraph);
    cuGraphExecDestroy(CUgraphExec);
    cuGraphLaunch(CUgraphExec, CUstream);
    cuModuleLoadDataEx(*mut CUmodule, *const c_void, c_uint, *mut CUjit_option, *mut *mut c_void);
    cuModuleUnload(CUmodule);
    cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char);
    cuFuncSetAttribute(CUfunction, c_int, c_int);
    cuLaunchKernelEx(*const CUlaunchConfig, CUfunction, *mut *mut c_void, *mut *mut c_void);
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemAlloc_v2(*mut CUdeviceptr, usize);
    cuMemFree_v2(CUdeviceptr);
    cuMemcpyHtoDAsync_v2(CUdeviceptr, *const c_void, usize, CUstream);
    cuMemcpyDtoHAsync_v2(*mut c_void, CUdeviceptr, usize, CUstream);
    cuMemcpyDtoDAsync_v2(CUdeviceptr, CUdeviceptr, usize, CUstream);
    cuMemsetD8Async(CUdeviceptr, u8, usize, CUstream);
    cuEventCreate(*mut CUevent, c_uint);
    cuEventRecord(CUevent, CUstream);
    cuEventSynchronize(CUevent);
    cuEventElapsedTime(*mut f32, CUevent, CUevent);
    cuEventDestroy_v2(CUevent);
}

/// Numbers of errors that mean something of their own.
pub(super) const OUT_OF_MEMORY: c_int = 2;
pub(super) const STUB_LIBRARY: c_int = 34;
pub(super) const UNSUPPORTED_PTX_VERSION: c_int = 222;
pub(super) const NOT_FOUND: c_int = 500;
/// What a kernel did: bad addresses and instructions, traps, too long.
const KERNEL_FAULTS: std::ops::RangeInclusive<c_int> = 700..=719;

impl Api {
    /// The driver's words for an error.
    pub(super) fn words(&self, code: c_int) -> String {
        let ask = |f: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text = std::ptr::null();
            // SAFETY: the driver writes the address of a string that it never frees, or leaves null.
            unsafe {
                if f(code, &mut text) != 0 || text.is_null() {
                    return None;
                }
                Some(CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        match (ask(self.cuGetErrorName), ask(self.cuGetErrorString)) {
            (Some(name), Some(text)) => format!("{name}: {text}"),
            (Some(text), None) | (None, Some(text)) => text,
            (None, None) => format!("error {code}"),
        }
    }

    /// An error for what a function gave.
    pub(super) fn check(&self, call: &'static str, code: c_int) -> Result<(), GpuError> {
        match code {
            0 => Ok(()),
            code if KERNEL_FAULTS.contains(&code) => {
                Err(GpuError::Kernel { kernel: "of an earlier step".into(), what: self.words(code) })
            }
            code => Err(GpuError::Call { call, what: self.words(code) }),
        }
    }
}
