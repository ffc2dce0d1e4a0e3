//! Relocations: patching an address into code or data.
//!
//! x86-64: `64`, `PC32`, `PLT32`, `32`, `32S`, `PC64`. aarch64: `ABS64`, `PREL32`, `CALL26`, `JUMP26`,
//! `ADR_PREL_PG_HI21`, `ADD_ABS_LO12_NC`, `LDST{8,16,32,64,128}_ABS_LO12_NC`. Anything else is refused by name; the GOT
//! forms mean that the compiler thought a symbol might live elsewhere (it must be colocated).

use object::Architecture;

/// Patches the field at `offset` of a section that will run at address `section`, to refer to address `target`
/// (symbol plus addend).
pub fn apply(
    arch: Architecture,
    kind: u32,
    bytes: &mut [u8],
    section: u64,
    offset: u64,
    target: u64,
) -> Result<(), String> {
    let place = section.wrapping_add(offset);
    match arch {
        Architecture::X86_64 => x86(kind, bytes, place, offset, target),
        Architecture::Aarch64 => aarch64(kind, bytes, place, offset, target),
        _ => Err("unknown architecture".into()),
    }
}

fn field<const N: usize>(bytes: &mut [u8], offset: u64) -> Result<&mut [u8; N], String> {
    let start = usize::try_from(offset).map_err(|e| e.to_string())?;
    let end = start.checked_add(N).ok_or("offset overflow")?;
    bytes.get_mut(start..end).and_then(|b| b.try_into().ok()).ok_or_else(|| "it is outside its section".into())
}

fn x86(kind: u32, bytes: &mut [u8], place: u64, offset: u64, target: u64) -> Result<(), String> {
    let relative = target.wrapping_sub(place) as i64;
    let far = |_| "the target is too far away".to_string();
    match kind {
        1 => *field(bytes, offset)? = target.to_le_bytes(),
        2 | 4 => *field(bytes, offset)? = i32::try_from(relative).map_err(far)?.to_le_bytes(),
        10 => *field(bytes, offset)? = u32::try_from(target).map_err(far)?.to_le_bytes(),
        11 => *field(bytes, offset)? = i32::try_from(target as i64).map_err(far)?.to_le_bytes(),
        24 => *field(bytes, offset)? = relative.to_le_bytes(),
        9 | 41 | 42 => return Err("R_X86_64_GOTPCREL needs a table; define the symbol as colocated".into()),
        n => return Err(format!("R_X86_64 type {n} is not supported")),
    }
    Ok(())
}

fn aarch64(kind: u32, bytes: &mut [u8], place: u64, offset: u64, target: u64) -> Result<(), String> {
    let relative = target.wrapping_sub(place) as i64;
    match kind {
        257 => *field(bytes, offset)? = target.to_le_bytes(),
        261 => {
            let value = i32::try_from(relative).map_err(|_| "the target is too far away")?;
            *field(bytes, offset)? = value.to_le_bytes();
        }
        275 | 276 => {
            let pages = ((target & !0xfff).wrapping_sub(place & !0xfff) as i64) >> 12;
            in_bits(pages, 21)?;
            let (low, high) = (pages as u32 & 3, (pages as u32 >> 2) & 0x7_ffff);
            insert(bytes, offset, 0x60ff_ffe0, low << 29 | high << 5)?;
        }
        282 | 283 => {
            if relative & 3 != 0 {
                return Err("the target is not an instruction".into());
            }
            in_bits(relative >> 2, 26)?;
            insert(bytes, offset, 0x03ff_ffff, (relative >> 2) as u32 & 0x03ff_ffff)?;
        }
        277 => insert(bytes, offset, 0xfff << 10, (target as u32 & 0xfff) << 10)?,
        278 | 284 | 285 | 286 | 299 => {
            let shift = match kind {
                278 => 0,
                284 => 1,
                285 => 2,
                286 => 3,
                _ => 4,
            };
            let low = target as u32 & 0xfff;
            if low & ((1 << shift) - 1) != 0 {
                return Err("the target is not aligned".into());
            }
            insert(bytes, offset, 0xfff << 10, low >> shift << 10)?;
        }
        n => return Err(format!("R_AARCH64 type {n} is not supported; define the symbol as colocated")),
    }
    Ok(())
}

fn in_bits(value: i64, bits: u32) -> Result<(), String> {
    let limit = 1i64 << (bits - 1);
    if (-limit..limit).contains(&value) { Ok(()) } else { Err("the target is too far away".into()) }
}

fn insert(bytes: &mut [u8], offset: u64, mask: u32, value: u32) -> Result<(), String> {
    let field = field::<4>(bytes, offset)?;
    *field = (u32::from_le_bytes(*field) & !mask | value).to_le_bytes();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aarch64_fields() {
        let patch = |kind, word: u32, target| {
            let mut bytes = word.to_le_bytes();
            apply(Architecture::Aarch64, kind, &mut bytes, 0x1_0000, 0, target).map(|()| u32::from_le_bytes(bytes))
        };
        // bl .+8; adrp x0, page+1; add x0, x0, #0x234; ldr q0, [x0, #0x230]
        assert_eq!(patch(283, 0x9400_0000, 0x1_0008), Ok(0x9400_0002));
        assert_eq!(patch(275, 0x9000_0000, 0x1_1234), Ok(0xb000_0000));
        assert_eq!(patch(277, 0x9100_0000, 0x1_1234), Ok(0x9108_d000));
        assert_eq!(patch(299, 0x3dc0_0000, 0x1_1230), Ok(0x3dc0_8c00));
        assert!(patch(299, 0x3dc0_0000, 0x1_1234).is_err());
        assert!(patch(283, 0x9400_0000, 0x4000_0000).is_err());
        assert!(patch(311, 0, 0).is_err_and(|e| e.contains("311")));
    }

    #[test]
    fn x86_fields_and_edges() {
        let mut bytes = [0; 12];
        let x86 = Architecture::X86_64;
        assert_eq!(apply(x86, 2, &mut bytes, 0x1000, 4, 0x1000), Ok(()));
        assert_eq!(bytes[4..8], (-4i32).to_le_bytes());
        assert!(apply(x86, 2, &mut bytes, 0x1000, 9, 0x1000).is_err());
        assert!(apply(x86, 2, &mut bytes, 0x1000, u64::MAX, 0x1000).is_err());
        assert!(apply(x86, 2, &mut bytes, 0, 0, 1 << 40).is_err());
        assert!(apply(x86, 9, &mut bytes, 0, 0, 0).is_err_and(|e| e.contains("colocated")));
    }
}
