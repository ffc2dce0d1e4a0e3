//! The kernels of these tests are PTX as NVIDIA's assembler takes it. `PTXAS` names the assembler; without it the test says
//! that it is skipped. With it, `semantics.rs` has every instruction assembled, too.

mod common;

#[test]
fn kernels_assemble() {
    for (name, text) in common::KERNELS {
        let archs =
            if text.contains("sm_90") { &["sm_90", "sm_90a", "sm_120"][..] } else { &["sm_80", "sm_89", "sm_90a"] };
        if !common::assemble(name, text, archs) {
            eprintln!("ptxas: SKIPPED, PTXAS is not set; the kernels were not assembled");
            assert!(std::env::var_os("PTXAS_REQUIRED").is_none(), "PTXAS_REQUIRED is set and PTXAS is not");
            return;
        }
    }
}
