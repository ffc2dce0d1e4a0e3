//! The parser: what it says of what it does not know, and that it survives anything.

mod common;

use common::{KERNELS, Random};
use tilewright_ptx_emu::Module;

fn in_kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{{\n.reg .b32 %r<4>; .reg .pred %p; .reg .b64 %d;\n\
         {body}\nret;\n}}\n"
    )
}

#[test]
fn errors_name_line_and_cause() {
    let cases = [
        ("foo.b32 %r1, %r2;", "line 7: instruction `foo.b32` is not known to the emulator"),
        ("add.frob.u32 %r1, %r2, %r3;", "line 7: modifier `.frob` of `add.frob.u32` is not known to the emulator"),
        ("add.u32 %r1, %r2;", "line 7: `add.u32` takes 3 operands, not 2"),
        ("add.u32 %r1, %r2, %r9;", "line 7: register `%r9` is not declared, nor is it a special register that we know"),
        ("add.u64 %r1, %d, %d;", "line 7: `add.u64` wants a register of type u64, not b32"),
        ("bra NOWHERE;", "line 7: label `NOWHERE` is not defined"),
        ("mov.u16 %r0, 70000;", "line 7: this constant does not fit type u16"),
        ("@%r1 exit;", "line 7: `exit` wants a register of type pred, not b32"),
        (".frob 7;", "line 7: `.frob` is not known to the emulator in a kernel"),
        (
            "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 %r0, %r1, %r2, %r3;",
            "line 7: `mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32` does not say a shape that we know",
        ),
        ("X:\nX:", "line 8: label `X` is defined twice"),
        ("/* no end", "line 7: this comment has no end"),
    ];
    for (body, want) in cases {
        assert_eq!(Module::parse(&in_kernel(body)).map(|_| ()).unwrap_err().to_string(), want);
    }
    assert_eq!(Module::parse("").unwrap_err().to_string(), "line 1: a module states its .version and .target");
}

#[test]
fn mutated_texts_do_not_panic() {
    let mut random = Random(7);
    let words =
        ["%r1", "{", "}", "[", "]", ";", "@", "!", "0x", "-", "+", "|", ".reg", ".shared", "<", ">", "0f1", "//", "/*"];
    let mut wrong = 0;
    for i in 0..2000 {
        let mut text = KERNELS[i % KERNELS.len()].1.as_bytes().to_vec();
        for _ in 0..1 + random.bits() % 4 {
            let at = random.bits() as usize % text.len();
            match random.bits() % 5 {
                0 => text[at] = random.bits() as u8,
                1 => drop(text.drain(at..(at + random.bits() as usize % 40).min(text.len()))),
                2 => text.truncate(at.max(1)),
                3 => {
                    let word = words[random.bits() as usize % words.len()];
                    drop(text.splice(at..at, word.bytes()));
                }
                _ => {
                    let from = random.bits() as usize % text.len();
                    let piece = text[from..(from + 30).min(text.len())].to_vec();
                    drop(text.splice(at..at, piece));
                }
            }
            if text.is_empty() {
                text.push(b' ');
            }
        }
        wrong += usize::from(Module::parse(&String::from_utf8_lossy(&text)).is_err());
    }
    assert!(wrong > 1000, "only {wrong} of 2000 mutations were noticed");
}
