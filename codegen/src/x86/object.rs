//! Machine code as an ELF object.

use object::write::{Object, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope};

use super::emit::Emitted;
use super::internal;
use crate::backend::CodegenError;

/// Kernels start on a cache line.
const ALIGN: u64 = 64;

/// An object of these kernels, each a global function.
pub(super) fn write(kernels: &[(&str, Emitted)]) -> Result<Vec<u8>, CodegenError> {
    let mut out = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let text = out.section_id(object::write::StandardSection::Text);
    for (name, code) in kernels {
        let at = out.append_section_data(text, &code.bytes, ALIGN);
        out.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value: at + code.entry as u64,
            size: (code.bytes.len() - code.entry) as u64,
            kind: SymbolKind::Text,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(text),
            flags: SymbolFlags::None,
        });
    }
    // Without it linkers take the stack to be executable.
    out.add_section(vec![], b".note.GNU-stack".to_vec(), SectionKind::Other);
    out.write().map_err(|e| internal("", &e))
}
