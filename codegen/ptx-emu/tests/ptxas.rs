//! The kernels of these tests are PTX as NVIDIA's assembler takes it. `PTXAS` names the assembler; without it the test says
//! that it is skipped.

mod common;

use std::process::Command;

#[test]
fn kernels_assemble() {
    let Some(ptxas) = std::env::var_os("PTXAS").filter(|p| !p.is_empty()) else {
        eprintln!("ptxas: skipped, PTXAS is not set; the kernels were not assembled");
        return;
    };
    let dir = std::env::temp_dir();
    for (name, text) in common::KERNELS {
        let path = dir.join(format!("tilewright-{}-{name}.ptx", std::process::id()));
        std::fs::write(&path, text).expect("a temporary file");
        for arch in ["sm_80", "sm_90", "sm_90a", "sm_120"] {
            if arch == "sm_80" && text.contains("sm_90") {
                continue;
            }
            let out = Command::new(&ptxas).arg(format!("-arch={arch}")).arg("-o").arg("/dev/null").arg(&path).output();
            let out = out.expect("PTXAS names a program that runs");
            assert!(out.status.success(), "{name} for {arch}: {}", String::from_utf8_lossy(&out.stderr));
        }
        std::fs::remove_file(&path).expect("the file just written");
    }
}
