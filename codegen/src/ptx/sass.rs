//! What is in machine code: counts of the instructions that decide how fast a kernel is.

/// Instructions of a kernel. Loads are of global memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sass {
    /// Name of the kernel.
    pub name: String,
    /// All instructions.
    pub instructions: u32,
    /// Loads of 16 bytes.
    pub loads_16: u32,
    /// Loads of 8 bytes.
    pub loads_8: u32,
    /// Other loads.
    pub loads_less: u32,
    /// Asynchronous copies to shared memory.
    pub copies: u32,
    /// Products of matrices.
    pub mma: u32,
    /// Loads and stores of a thread's own memory: spills, and `local`.
    pub local: u32,
    /// Most loads under way at once: begun, and not yet read by anyone.
    pub loads_in_flight: u32,
}

impl Sass {
    /// Reads a disassembly.
    pub(super) fn of(text: &str) -> Vec<Sass> {
        let (mut out, mut pending): (Vec<Sass>, Vec<(u32, u32)>) = (vec![], vec![]);
        for line in text.lines() {
            let line = line.trim();
            if let Some(name) = line.strip_prefix(".text.").and_then(|l| l.strip_suffix(':')) {
                out.push(Sass { name: name.into(), ..Sass::default() });
                pending.clear();
            }
            // `/*0010*/  @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;`
            let Some((_, code)) = line.strip_prefix("/*").and_then(|l| l.split_once("*/")) else { continue };
            let code = code.trim().trim_end_matches([';', ' ']);
            let code = if code.starts_with('@') { code.split_once(' ').map_or("", |c| c.1) } else { code };
            let (name, operands) = code.trim().split_once(' ').unwrap_or((code.trim(), ""));
            if let (Some(sass), false) = (out.last_mut(), name.is_empty()) {
                sass.count(name, operands, &mut pending);
            }
        }
        out
    }

    fn count(&mut self, name: &str, operands: &str, pending: &mut Vec<(u32, u32)>) {
        self.instructions += 1;
        let used = registers(operands);
        pending.retain(|&(first, n)| !used.iter().any(|r| (first..first + n).contains(r)));
        match name.split('.').next().unwrap_or_default() {
            "LDG" => {
                let (count, n) = match () {
                    _ if name.contains(".128") => (&mut self.loads_16, 4),
                    _ if name.contains(".64") => (&mut self.loads_8, 2),
                    _ => (&mut self.loads_less, 1),
                };
                *count += 1;
                pending.extend(used.first().map(|&first| (first, n)));
                self.loads_in_flight = self.loads_in_flight.max(pending.len() as u32);
            }
            "LDGSTS" => self.copies += 1,
            "HMMA" | "HGMMA" | "IMMA" => self.mma += 1,
            "LDL" | "STL" => self.local += 1,
            _ => {}
        }
    }
}

/// Numbers of the registers that are named, those of uniform ones left out.
fn registers(operands: &str) -> Vec<u32> {
    let words = operands.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter_map(|w| w.strip_prefix('R')?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_in_flight_end_at_their_first_reader() {
        let text = "\t.section\t.text.k\n.text.k:\n\
            /*0000*/ LDC R1, c[0x0][0x28] ;\n\
            /*0010*/ LDG.E.128 R4, desc[UR4][R2.64] ;\n\
            /*0020*/ @!P0 LDG.E.128.CONSTANT R8, desc[UR4][R2.64+0x10] ;\n\
            /*0030*/ IADD3 R12, R7, R3, RZ ;\n\
            /*0040*/ LDG.E.64 R14, desc[UR4][R2.64] ;\n\
            /*0050*/ HMMA.16816.F32 R4, R8, R14, R4 ;\n\
            /*0060*/ STL [R1], R4 ;\n";
        let wanted = Sass {
            name: "k".into(),
            instructions: 7,
            loads_16: 2,
            loads_8: 1,
            mma: 1,
            local: 1,
            loads_in_flight: 2,
            ..Sass::default()
        };
        assert_eq!(Sass::of(text), [wanted]);
    }
}
