//! Where addresses point, and whether they may.

use super::Bad;
use crate::FaultKind;

/// Each allocation starts at a multiple of this. The gap behind it catches every byte that does not belong to it.
const STRIDE: u64 = 1 << 32;
/// Offsets above this are taken for a negative one of the next allocation: reports name what was probably meant.
const HALF: u64 = STRIDE / 2;

/// Address of the first byte of allocation `i`.
pub(crate) fn base(i: usize) -> u64 {
    (i as u64 + 1) * STRIDE
}

/// Allocation and offset of `bytes` bytes at an address; `sizes` are names and lengths of the allocations.
pub(crate) fn locate<'a>(
    address: u64,
    bytes: usize,
    size: impl Fn(usize) -> Option<(&'a str, usize)>,
) -> Result<(usize, usize), Bad> {
    let (block, offset) = (address / STRIDE, address % STRIDE);
    let here = block.checked_sub(1).and_then(|i| Some((i as usize, size(i as usize)?)));
    if let Some((i, (name, len))) = here
        && offset < HALF
    {
        return if offset + bytes as u64 <= len as u64 {
            Ok((i, offset as usize))
        } else {
            let m = format!("{bytes} bytes at offset {offset} of `{name}`, which has {len}");
            Err(Bad::new(FaultKind::OutOfBounds, m))
        };
    }
    if let (Some((name, _)), true) = (size(block as usize), offset >= HALF) {
        let m = format!("{bytes} bytes at {} bytes before `{name}`", STRIDE - offset);
        return Err(Bad::new(FaultKind::OutOfBounds, m));
    }
    Err(Bad::new(FaultKind::OutOfBounds, format!("{bytes} bytes at {address:#x}, where nothing is allocated")))
}

/// Accesses are aligned to their size.
pub(crate) fn aligned(address: u64, bytes: usize) -> Result<(), Bad> {
    if bytes == 0 || address.is_multiple_of(bytes as u64) {
        return Ok(());
    }
    let m = format!("address {address:#x} is no multiple of the {bytes} bytes of the access");
    Err(Bad::new(FaultKind::Misaligned, m))
}

/// A range of a memory of one block: shared, local, parameters, constants.
pub(crate) fn within(what: &str, address: u64, bytes: usize, len: usize) -> Result<usize, Bad> {
    match address.checked_add(bytes as u64) {
        Some(end) if end <= len as u64 => Ok(address as usize),
        _ => {
            let m = format!("{bytes} bytes at {address:#x} of {what} memory, which has {len}");
            Err(Bad::new(FaultKind::OutOfBounds, m))
        }
    }
}
