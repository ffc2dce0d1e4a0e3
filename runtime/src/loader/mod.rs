//! The loader: turns `kernels.o` into functions without a linker.
//!
//! An object may hold code and constants, no variables and no imports. All of it goes into one anonymous mapping, which
//! is written, relocated and then made executable: never both at once. See [`reloc`] for the relocations.

pub mod reloc;

use std::collections::{BTreeMap, HashMap};

use memmap2::{Mmap, MmapMut};
use object::read::elf::ElfFile64;
use object::{Architecture, Endianness, Object, ObjectKind, ObjectSection, ObjectSymbol, SectionFlags, SectionIndex};

use crate::artifact::KERNELS;
use crate::error::ArtifactError;

/// A kernel: pointers, scalars, index of the chunk.
#[cfg(target_arch = "x86_64")]
pub type KernelFn = unsafe extern "sysv64" fn(*const *mut u8, *const i64, i64);
/// A kernel: pointers, scalars, index of the chunk.
#[cfg(not(target_arch = "x86_64"))]
pub type KernelFn = unsafe extern "C" fn(*const *mut u8, *const i64, i64);

/// Sections begin on a multiple of this, or of their own alignment if it is larger.
const SECTION_ALIGN: u64 = 64;
/// Largest alignment of a section: a mapping begins on a page.
const MAX_ALIGN: u64 = 4096;

/// Loaded kernels, of one object or of several. Functions are valid as long as this lives.
#[derive(Debug)]
pub struct Kernels {
    objects: Vec<Loaded>,
}

/// One object in memory.
#[derive(Debug)]
struct Loaded {
    map: Mmap,
    /// Name to offset in the mapping.
    symbols: BTreeMap<String, usize>,
}

/// Where a section lies in the mapping.
struct Placed<'data> {
    start: u64,
    data: &'data [u8],
    executable: bool,
}

impl Kernels {
    /// Loads an ELF relocatable object for this machine.
    pub fn load(bytes: &[u8]) -> Result<Kernels, ArtifactError> {
        let elf = ElfFile64::<Endianness>::parse(bytes).map_err(|e| bad(e.to_string()))?;
        let here = match std::env::consts::ARCH {
            "x86_64" => Architecture::X86_64,
            "aarch64" => Architecture::Aarch64,
            other => return Err(bad(format!("there is no loader for {other}"))),
        };
        if elf.kind() != ObjectKind::Relocatable || elf.architecture() != here || !elf.is_little_endian() {
            return Err(bad(format!("it is not a relocatable object for {}", std::env::consts::ARCH)));
        }
        let (placed, total) = place(&elf, bytes.len() as u64)?;
        let mut map = MmapMut::map_anon(total as usize).map_err(ArtifactError::ExecutableMemory)?;
        for section in placed.values() {
            let start = section.start as usize;
            map.get_mut(start..start + section.data.len()).ok_or_else(|| bad("layout"))?.copy_from_slice(section.data);
        }
        for (index, section) in &placed {
            relocate(&elf, *index, section, &placed, &mut map)?;
        }
        let symbols = symbols(&elf, &placed)?;
        let map = map.make_exec().map_err(ArtifactError::ExecutableMemory)?;
        flush_instruction_cache(&map);
        Ok(Kernels { objects: vec![Loaded { map, symbols }] })
    }

    /// Takes in the kernels of another object. Of two with one name the earlier one is found.
    pub fn join(&mut self, other: Kernels) {
        self.objects.extend(other.objects);
    }

    /// The function of that name.
    pub fn get(&self, name: &str) -> Option<KernelFn> {
        let code = self.objects.iter().find_map(|o| o.map.get(*o.symbols.get(name)?..))?;
        // SAFETY: the symbol is in an executable section of the mapping, which is executable and lives as long as `self`.
        // That the code there has this signature is the compiler's word; calling it is unsafe.
        Some(unsafe { std::mem::transmute::<*const u8, KernelFn>(code.as_ptr()) })
    }

    /// All functions: name, address. For a `perf` map.
    pub fn symbols(&self) -> impl Iterator<Item = (&str, usize)> {
        self.objects.iter().flat_map(|o| {
            let base = o.map.as_ptr() as usize;
            o.symbols.iter().map(move |(name, offset)| (name.as_str(), base + offset))
        })
    }

    /// Bytes of code and constants.
    pub fn bytes(&self) -> usize {
        self.objects.iter().map(|o| o.map.len()).sum()
    }
}

fn bad(what: impl Into<String>) -> ArtifactError {
    ArtifactError::rejected(KERNELS, what)
}

type Elf<'data> = ElfFile64<'data, Endianness>;

/// Gives every section that must be in memory its place. Sections may not be larger than the file all together, so that
/// many headers over the same bytes cannot ask for more memory than the file is worth.
fn place<'data>(
    elf: &Elf<'data>,
    file_bytes: u64,
) -> Result<(HashMap<SectionIndex, Placed<'data>>, u64), ArtifactError> {
    use object::elf::{SHF_ALLOC, SHF_EXECINSTR, SHF_WRITE};
    let mut placed = HashMap::new();
    let (mut end, mut copied) = (0u64, 0u64);
    for section in elf.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else { continue };
        if sh_flags.0 & SHF_ALLOC.0 == 0 || section.size() == 0 {
            continue;
        }
        let name = section.name().unwrap_or("?");
        // Nothing unwinds through kernels.
        if name == ".eh_frame" {
            continue;
        }
        if sh_flags.0 & SHF_WRITE.0 != 0 && !name.starts_with(".data.rel.ro") {
            return Err(bad(format!("section {name} is writable; kernels have no variables")));
        }
        let data = section.data().map_err(|e| bad(format!("section {name}: {e}")))?;
        copied += data.len() as u64;
        if data.len() as u64 != section.size() || copied > file_bytes {
            return Err(bad(format!("section {name} is larger than the file")));
        }
        let align = section.align().max(SECTION_ALIGN);
        if !align.is_power_of_two() || align > MAX_ALIGN {
            return Err(bad(format!("section {name} has alignment {align}")));
        }
        let start = end.next_multiple_of(align);
        end = start + data.len() as u64;
        placed.insert(section.index(), Placed { start, data, executable: sh_flags.0 & SHF_EXECINSTR.0 != 0 });
    }
    // The padding of up to 4 KiB a section counts too.
    if end > file_bytes.saturating_mul(2) + (1 << 16) {
        return Err(bad("alignment of sections wastes more than the file's size"));
    }
    // Vector kernels may read a little past their constants.
    Ok((placed, end + 64))
}

fn relocate(
    elf: &Elf<'_>,
    index: SectionIndex,
    section: &Placed<'_>,
    placed: &HashMap<SectionIndex, Placed<'_>>,
    map: &mut MmapMut,
) -> Result<(), ArtifactError> {
    let base = map.as_ptr() as u64;
    let header = elf.section_by_index(index).map_err(|e| bad(e.to_string()))?;
    for (offset, relocation) in header.relocations() {
        let object::RelocationTarget::Symbol(symbol) = relocation.target() else {
            return Err(bad(format!("a relocation at {offset:#x} has no symbol")));
        };
        let symbol = elf.symbol_by_index(symbol).map_err(|e| bad(e.to_string()))?;
        let name = symbol.name().unwrap_or("?");
        let Some(home) = symbol.section_index().and_then(|i| placed.get(&i)) else {
            return Err(bad(format!("{name} is not defined in the object; kernels import nothing")));
        };
        // One past the end is a valid address.
        if symbol.address() > home.data.len() as u64 {
            return Err(bad(format!("{name} is outside its section")));
        }
        let object::RelocationFlags::Elf { r_type } = relocation.flags() else {
            return Err(bad("a relocation of another format"));
        };
        let target = (base + home.start + symbol.address()).wrapping_add_signed(relocation.addend());
        let range = section.start as usize..section.start as usize + section.data.len();
        let bytes = map.get_mut(range).ok_or_else(|| bad("layout"))?;
        reloc::apply(elf.architecture(), r_type.0, bytes, base + section.start, offset, target)
            .map_err(|what| bad(format!("relocation to {name} at {offset:#x}: {what}")))?;
    }
    Ok(())
}

fn symbols(
    elf: &Elf<'_>,
    placed: &HashMap<SectionIndex, Placed<'_>>,
) -> Result<BTreeMap<String, usize>, ArtifactError> {
    let mut out = BTreeMap::new();
    for symbol in elf.symbols() {
        let Some(home) = symbol.section_index().and_then(|i| placed.get(&i)) else { continue };
        let name = symbol.name().map_err(|e| bad(e.to_string()))?;
        if name.is_empty() || !home.executable || symbol.address() >= home.data.len() as u64 {
            continue;
        }
        out.insert(name.to_string(), (home.start + symbol.address()) as usize);
    }
    Ok(out)
}

/// Data and instruction caches of aarch64 know nothing of each other.
#[cfg(target_arch = "aarch64")]
fn flush_instruction_cache(map: &Mmap) {
    let range = map.as_ptr_range();
    // Every line size is a multiple of 16.
    for line in (range.start as usize..range.end as usize).step_by(16) {
        // SAFETY: cleaning and invalidating a line of our own mapping changes no memory.
        unsafe { std::arch::asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", in(reg) line, options(nostack)) };
    }
    // SAFETY: barriers only.
    unsafe { std::arch::asm!("dsb ish", "isb", options(nostack)) };
}

#[cfg(not(target_arch = "aarch64"))]
fn flush_instruction_cache(_: &Mmap) {}
