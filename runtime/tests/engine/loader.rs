use object::write::StandardSection;
use tilewright_runtime::loader::Kernels;

use crate::kernels::Builder;

/// `call other; add rax, [rip + constant]; ret` and `mov rax, table; mov rax, [rax]; ret`
#[test]
fn code_constants_and_calls() {
    let mut builder = Builder::new();
    builder.text("other", &[0xb8, 30, 0, 0, 0, 0xc3]);
    let other = builder.text("twelve", &[0xb8, 12, 0, 0, 0, 0xc3]);
    let constant = builder.symbol("constant", StandardSection::ReadOnlyData, &30i64.to_le_bytes());
    builder.text("sum", &[0xe8, 0, 0, 0, 0, 0x48, 0x03, 0x05, 0, 0, 0, 0, 0xc3]);
    builder.text("absolute", &[0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0x48, 0x8b, 0, 0xc3]);
    builder.relocate(33, other, 4, -4);
    builder.relocate(40, constant, 2, -4);
    builder.relocate(50, constant, 1, 0);
    let kernels = Kernels::load(&builder.finish()).unwrap();
    let run = |name| {
        let f = kernels.get(name).unwrap();
        // SAFETY: the code above takes nothing and answers a number in rax.
        unsafe { std::mem::transmute::<tilewright_runtime::loader::KernelFn, extern "sysv64" fn() -> i64>(f)() }
    };
    assert_eq!((run("twelve"), run("sum"), run("absolute")), (12, 42, 30));
    assert!(kernels.get("constant").is_none());
    assert!(kernels.get("nothing").is_none());
    assert_eq!(kernels.symbols().count(), 4);
}

#[test]
fn mapping_is_never_writable_and_executable() {
    let mut builder = Builder::new();
    builder.text("f", &[0xc3]);
    let kernels = Kernels::load(&builder.finish()).unwrap();
    let (_, address) = kernels.symbols().next().unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let inside = |line: &&str| {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        (usize::from_str_radix(start, 16).unwrap()..usize::from_str_radix(end, 16).unwrap()).contains(&address)
    };
    let line = maps.lines().find(inside).unwrap();
    assert!(line.contains("r-xp"), "{line}");
}

#[test]
fn refusals_name_the_culprit() {
    let undefined = |kind| {
        let mut builder = Builder::new();
        builder.text("f", &[0xe8, 0, 0, 0, 0, 0xc3]);
        let symbol = builder.object.add_symbol(object::write::Symbol {
            name: "printf".into(),
            value: 0,
            size: 0,
            kind: object::SymbolKind::Text,
            scope: object::SymbolScope::Unknown,
            weak: false,
            section: object::write::SymbolSection::Undefined,
            flags: object::SymbolFlags::None,
        });
        builder.relocate(1, symbol, kind, -4);
        builder.finish()
    };
    let relocation = |kind, offset| {
        let mut builder = Builder::new();
        let f = builder.text("f", &[0xe8, 0, 0, 0, 0, 0xc3]);
        builder.relocate(offset, f, kind, -4);
        builder.finish()
    };
    let section = |kind| {
        let mut builder = Builder::new();
        builder.symbol("x", kind, &[1, 2, 3, 4]);
        builder.finish()
    };
    let mut other_machine = relocation(2, 1);
    other_machine[18] = 183;
    let cases = [
        (undefined(4), "printf is not defined"),
        (relocation(9, 1), "colocated"),
        (relocation(99, 1), "type 99"),
        (relocation(2, 3), "outside its section"),
        (section(StandardSection::Data), ".data is writable"),
        (other_machine, "not a relocatable object for x86_64"),
        (vec![], "kernels.o"),
    ];
    for (bytes, message) in cases {
        let error = Kernels::load(&bytes).unwrap_err().to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
}
