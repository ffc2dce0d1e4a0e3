//! Numbers and layouts of the driver's header, `cuda.h` of CUDA 13.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// CUDA 13.0.
pub const DRIVER_VERSION: c_int = 13000;

pub const INVALID_VALUE: c_int = 1;
pub const OUT_OF_MEMORY: c_int = 2;
pub const NOT_INITIALIZED: c_int = 3;
pub const INVALID_DEVICE: c_int = 101;
pub const INVALID_CONTEXT: c_int = 201;
pub const NO_BINARY_FOR_GPU: c_int = 209;
pub const INVALID_PTX: c_int = 218;
pub const INVALID_HANDLE: c_int = 400;
pub const NOT_FOUND: c_int = 500;
pub const ILLEGAL_ADDRESS: c_int = 700;
pub const NOT_SUPPORTED: c_int = 801;
pub const CAPTURE_UNSUPPORTED: c_int = 900;
pub const CAPTURE_INVALIDATED: c_int = 901;
pub const UNKNOWN: c_int = 999;

/// What `cuGetErrorName` gives.
pub fn error_name(code: c_int) -> Option<&'static CStr> {
    Some(match code {
        INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        NOT_INITIALIZED => c"CUDA_ERROR_NOT_INITIALIZED",
        100 => c"CUDA_ERROR_NO_DEVICE",
        INVALID_DEVICE => c"CUDA_ERROR_INVALID_DEVICE",
        INVALID_CONTEXT => c"CUDA_ERROR_INVALID_CONTEXT",
        NO_BINARY_FOR_GPU => c"CUDA_ERROR_NO_BINARY_FOR_GPU",
        INVALID_PTX => c"CUDA_ERROR_INVALID_PTX",
        222 => c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        INVALID_HANDLE => c"CUDA_ERROR_INVALID_HANDLE",
        NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
        ILLEGAL_ADDRESS => c"CUDA_ERROR_ILLEGAL_ADDRESS",
        719 => c"CUDA_ERROR_LAUNCH_FAILED",
        NOT_SUPPORTED => c"CUDA_ERROR_NOT_SUPPORTED",
        CAPTURE_UNSUPPORTED => c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        CAPTURE_INVALIDATED => c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        UNKNOWN => c"CUDA_ERROR_UNKNOWN",
        _ => return None,
    })
}

pub const MULTIPROCESSOR_COUNT: c_int = 16;
pub const L2_CACHE_SIZE: c_int = 38;
pub const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
pub const COMPUTE_CAPABILITY_MINOR: c_int = 76;
pub const MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: c_int = 97;

pub const MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;
/// Dynamic shared memory that a kernel has without asking.
pub const PLAIN_SHARED: c_uint = 48 << 10;
/// Threads of a block at most.
pub const MAX_THREADS: u64 = 1024;

pub const JIT_ERROR_LOG_BUFFER: c_int = 5;
pub const JIT_ERROR_LOG_BUFFER_SIZE_BYTES: c_int = 6;

pub const STREAM_NON_BLOCKING: c_uint = 1;
/// Global, of this thread, relaxed.
pub const CAPTURE_MODES: std::ops::RangeInclusive<c_uint> = 0..=2;
pub const CAPTURE_RELAXED: c_uint = 2;

pub const PROGRAMMATIC_STREAM_SERIALIZATION: c_int = 6;

/// `CUlaunchConfig`.
#[repr(C)]
pub struct LaunchConfig {
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared_bytes: c_uint,
    pub stream: *mut c_void,
    pub attributes: *const LaunchAttribute,
    pub attribute_count: c_uint,
}

/// `CUlaunchAttribute`: 64 bytes of value, of which those of a programmatic launch are one number.
#[repr(C, align(8))]
pub struct LaunchAttribute {
    pub id: c_int,
    pub pad: [c_char; 4],
    pub value: c_int,
    pub rest: [c_char; 60],
}
