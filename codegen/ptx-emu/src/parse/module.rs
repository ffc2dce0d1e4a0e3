//! Declarations: module directives, kernels with parameters, registers, variables and labels.

use super::Cursor;
use super::inst::{self, RegId, Space};
use super::lex::Kind;
use crate::ParseError;
use crate::cfg;
use crate::ops::{self, Inst};
use crate::ty::Ty;
use std::collections::HashMap;

/// No kernel of ours comes near; a mutated text must not take all memory.
const MAX_REGS: usize = 1 << 16;
const MAX_VARIABLE: u64 = 1 << 24;
/// Offset of dynamic shared memory until that of a kernel is known.
pub(crate) const DYNAMIC_SHARED: u64 = 1 << 40;

/// A parameter of a kernel.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub name: String,
    pub size: usize,
    pub offset: usize,
}

/// A kernel, ready to run.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    pub param_bytes: usize,
    pub reg_names: Vec<String>,
    pub reg_types: Vec<Ty>,
    pub shared_bytes: usize,
    pub local_bytes: usize,
    pub max_threads: Option<u64>,
    /// The block must have exactly these threads.
    pub exact_threads: bool,
    /// The largest alignment that a variable of shared memory asks for: addresses there are known modulo it.
    pub shared_align: u64,
    pub code: Vec<Inst>,
}

/// A parsed and decoded PTX module.
#[derive(Clone, Debug)]
pub struct Module {
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) constants: Vec<u8>,
    version: String,
    target: String,
}

impl Module {
    /// Reads a module. Everything that the emulator would not know how to run is refused here.
    pub fn parse(text: &str) -> Result<Module, ParseError> {
        Reader {
            c: Cursor::new(text)?,
            scope: Scope::default(),
            target: String::new(),
            shared: 0,
            shared_align: 1,
            dynamic_align: 1,
            constants: Vec::new(),
        }
        .module()
    }

    /// Names of the kernels, in the order of the text.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.iter().map(|k| k.name.as_str())
    }

    /// How many parameters that kernel has.
    pub fn params(&self, kernel: &str) -> Option<usize> {
        self.kernels.iter().find(|k| k.name == kernel).map(|k| k.params.len())
    }

    /// What `.version` says.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What `.target` says.
    pub fn target(&self) -> &str {
        &self.target
    }
}

/// Names that are visible: registers and variables of all open scopes, the innermost last.
#[derive(Default)]
pub(crate) struct Scope<'a> {
    regs: Vec<HashMap<String, RegId>>,
    symbols: Vec<HashMap<&'a str, (Space, u64)>>,
    reg_types: Vec<Ty>,
    reg_names: Vec<String>,
}

impl<'a> Scope<'a> {
    pub fn reg(&self, name: &str) -> Option<RegId> {
        self.regs.iter().rev().find_map(|m| m.get(name)).copied()
    }

    pub fn symbol(&self, name: &str) -> Option<(Space, u64)> {
        self.symbols.iter().rev().find_map(|m| m.get(name)).copied()
    }

    /// Type that a register was declared with.
    pub fn reg_type(&self, r: RegId) -> Ty {
        self.reg_types[r as usize]
    }

    fn open(&mut self) {
        self.regs.push(HashMap::new());
        self.symbols.push(HashMap::new());
    }

    fn close(&mut self) {
        self.regs.pop();
        self.symbols.pop();
    }

    fn declare(&mut self, name: String, ty: Ty) -> Result<(), String> {
        if self.reg_types.len() >= MAX_REGS {
            return Err(format!("more than {MAX_REGS} registers"));
        }
        let id = self.reg_types.len() as RegId;
        self.reg_types.push(ty);
        self.reg_names.push(name.clone());
        match self.regs.last_mut().and_then(|m| m.insert(name.clone(), id)) {
            Some(_) => Err(format!("register `{name}` is declared twice")),
            None => Ok(()),
        }
    }

    fn variable(&mut self, name: &'a str, space: Space, offset: u64) -> Result<(), String> {
        match self.symbols.last_mut().and_then(|m| m.insert(name, (space, offset))) {
            Some(_) => Err(format!("`{name}` is declared twice")),
            None => Ok(()),
        }
    }
}

struct Reader<'a> {
    c: Cursor<'a>,
    scope: Scope<'a>,
    /// What `.target` says.
    target: String,
    /// Bytes of shared variables so far.
    shared: u64,
    /// Largest alignment of those.
    shared_align: u64,
    dynamic_align: u64,
    constants: Vec<u8>,
}

/// What a body collects.
#[derive(Default)]
struct Body {
    raw: Vec<inst::Raw>,
    labels: HashMap<String, usize>,
    local: u64,
}

fn align_up(n: u64, align: u64) -> u64 {
    n.div_ceil(align) * align
}

impl<'a> Reader<'a> {
    fn module(mut self) -> Result<Module, ParseError> {
        self.scope.open();
        let (mut kernels, mut version) = (Vec::<Kernel>::new(), String::new());
        while self.c.peek().kind != Kind::End {
            match self.c.word()? {
                ".version" => version = self.c.next().text.to_string(),
                ".target" => {
                    self.target = self.c.word()?.to_string();
                    while self.c.eat(",") {
                        self.c.word()?;
                    }
                }
                ".address_size" => {
                    if self.c.number()? != 64 {
                        return Err(self.c.error("only 64-bit addresses are known to the emulator"));
                    }
                }
                ".visible" | ".weak" => {}
                ".file" | ".loc" => self.c.skip_line(),
                ".extern" => {
                    self.c.expect(".shared")?;
                    self.dynamic()?;
                }
                ".shared" => self.variable(Space::Shared, &mut 0)?,
                ".const" => self.variable(Space::Const, &mut 0)?,
                ".entry" => {
                    let kernel = self.entry()?;
                    if kernels.iter().any(|k| k.name == kernel.name) {
                        return Err(self.c.error(format!("kernel `{}` is defined twice", kernel.name)));
                    }
                    kernels.push(kernel);
                }
                other => return Err(self.c.error(format!("`{other}` is not known to the emulator at module level"))),
            }
        }
        if version.is_empty() || self.target.is_empty() {
            return Err(self.c.error("a module states its .version and .target"));
        }
        Ok(Module { kernels, constants: self.constants, version, target: self.target })
    }

    fn alignment(&mut self) -> Result<u64, ParseError> {
        if !self.c.eat(".align") {
            return Ok(1);
        }
        match self.c.number()? {
            n if n.is_power_of_two() && n <= 1 << 16 => Ok(n),
            n => Err(self.c.error(format!("{n} is no alignment"))),
        }
    }

    fn ty(&mut self) -> Result<Ty, ParseError> {
        let word = self.c.word()?;
        let ty = word.strip_prefix('.').and_then(Ty::named);
        ty.ok_or_else(|| self.c.error(format!("type `{word}` is not known to the emulator")))
    }

    /// `.align 16 .b8 name[1024] = { … };` and its shorter forms.
    fn variable(&mut self, space: Space, local: &mut u64) -> Result<(), ParseError> {
        let align = self.alignment()?;
        let ty = self.ty()?;
        let align = align.max(ty.size() as u64);
        let name = self.c.word()?;
        let mut count = Some(1);
        while self.c.eat("[") {
            let n = if self.c.eat("]") { None } else { Some(self.c.number()?) };
            if n.is_some() {
                self.c.expect("]")?;
            }
            count = count.zip(n).map(|(a, b): (u64, u64)| a.saturating_mul(b));
        }
        let values = if self.c.eat("=") { self.initialiser(ty)? } else { Vec::new() };
        let bytes = match count {
            Some(n) => n.saturating_mul(ty.size() as u64),
            None => values.len() as u64,
        };
        if bytes > MAX_VARIABLE || values.len() as u64 > bytes {
            return Err(self.c.error(format!("`{name}` has {bytes} bytes and {} of values", values.len())));
        }
        let offset = match space {
            Space::Shared => {
                let at = align_up(self.shared, align);
                self.shared_align = self.shared_align.max(align);
                self.shared = at + bytes;
                at
            }
            Space::Local => {
                let at = align_up(*local, align);
                *local = at + bytes;
                at
            }
            _ => {
                let at = align_up(self.constants.len() as u64, align);
                self.constants.resize(at as usize, 0);
                self.constants.extend(&values);
                self.constants.resize((at + bytes) as usize, 0);
                at
            }
        };
        if !values.is_empty() && space != Space::Const {
            return Err(self.c.error("only .const variables have initial values"));
        }
        if self.shared.max(*local).max(self.constants.len() as u64) > 4 * MAX_VARIABLE {
            return Err(self.c.error("too many bytes of variables"));
        }
        self.scope.variable(name, space, offset).map_err(|m| self.c.error(m))?;
        self.c.expect(";")?;
        Ok(())
    }

    /// `.align 16 .b8 name[];`. All of them begin at the same place.
    fn dynamic(&mut self) -> Result<(), ParseError> {
        self.dynamic_align = self.alignment()?.max(self.dynamic_align);
        self.ty()?;
        let name = self.c.word()?;
        self.c.expect("[")?;
        self.c.expect("]")?;
        self.c.expect(";")?;
        self.scope.variable(name, Space::Shared, DYNAMIC_SHARED).map_err(|m| self.c.error(m))
    }

    fn initialiser(&mut self, ty: Ty) -> Result<Vec<u8>, ParseError> {
        let braces = self.c.eat("{");
        let mut out = Vec::new();
        loop {
            let minus = self.c.eat("-");
            let t = self.c.next();
            let bits = inst::constant(t.text).and_then(|v| ops::constant_bits(v, ty));
            let Some(bits) = bits else {
                return Err(self.c.error(format!("`{}` is no constant of type {}", t.text, ty.name())));
            };
            let bits = match (minus, ty.float()) {
                (false, _) => bits,
                (true, true) => bits ^ 1 << (ty.bits() - 1),
                (true, false) => bits.wrapping_neg(),
            };
            out.extend(&bits.to_le_bytes()[..ty.size()]);
            if !(braces && self.c.eat(",")) {
                break;
            }
        }
        if braces {
            self.c.expect("}")?;
        }
        Ok(out)
    }

    fn params(&mut self) -> Result<(Vec<Param>, u64), ParseError> {
        let (mut list, mut at) = (Vec::new(), 0u64);
        if !self.c.eat("(") || self.c.eat(")") {
            return Ok((list, at));
        }
        loop {
            self.c.expect(".param")?;
            let mut align = self.alignment()?;
            let ty = self.ty()?;
            while matches!(self.c.peek().text, ".ptr" | ".global" | ".align") {
                if self.c.next().text == ".align" {
                    self.c.number()?;
                }
            }
            let name = self.c.word()?;
            let mut size = ty.size() as u64;
            if self.c.eat("[") {
                size = size.saturating_mul(self.c.number()?);
                self.c.expect("]")?;
            }
            if size > 4096 {
                return Err(self.c.error(format!("parameter `{name}` is larger than 4096 bytes")));
            }
            align = align.max(ty.size() as u64);
            at = align_up(at, align);
            self.scope.variable(name, Space::Param, at).map_err(|m| self.c.error(m))?;
            list.push(Param { name: name.into(), size: size as usize, offset: at as usize });
            at += size;
            if self.c.eat(")") {
                return Ok((list, at));
            }
            self.c.expect(",")?;
        }
    }

    fn entry(&mut self) -> Result<Kernel, ParseError> {
        let name = self.c.word()?.to_string();
        let (module_shared, module_align) = (self.shared, self.shared_align);
        self.scope.open();
        self.scope.reg_types.clear();
        self.scope.reg_names.clear();
        let (params, param_bytes) = self.params()?;
        let (mut max_threads, mut exact_threads) = (None, false);
        while !self.c.eat("{") {
            match self.c.word()? {
                d @ (".maxntid" | ".reqntid") => {
                    let mut n = self.c.number()?;
                    while self.c.eat(",") {
                        n = n.saturating_mul(self.c.number()?);
                    }
                    exact_threads |= d == ".reqntid";
                    max_threads = Some(n);
                }
                ".minnctapersm" | ".maxnreg" => {
                    self.c.number()?;
                }
                d => return Err(self.c.error(format!("directive `{d}` of a kernel is not known to the emulator"))),
            }
        }
        let mut body = Body::default();
        self.body(&mut body)?;
        let dynamic = align_up(self.shared, self.dynamic_align);
        let code = ops::decode_all(&body.raw, &body.labels, &self.scope, dynamic)?;
        let wgmma = |i: &&ops::Inst| i.op.needs_wgmma();
        if let Some(inst) = code.iter().find(wgmma).filter(|_| self.target != "sm_90a") {
            let message = format!("wgmma needs .target sm_90a, not {}", self.target);
            return Err(ParseError { line: inst.line, message });
        }
        let code = cfg::with_reconvergence(code);
        self.scope.close();
        let kernel = Kernel {
            name,
            params,
            param_bytes: param_bytes as usize,
            reg_names: std::mem::take(&mut self.scope.reg_names),
            reg_types: std::mem::take(&mut self.scope.reg_types),
            shared_bytes: dynamic as usize,
            local_bytes: align_up(body.local, 16) as usize,
            max_threads,
            exact_threads,
            shared_align: self.shared_align.max(self.dynamic_align),
            code,
        };
        (self.shared, self.shared_align) = (module_shared, module_align);
        Ok(kernel)
    }

    /// Everything up to the brace that closes the kernel.
    fn body(&mut self, body: &mut Body) -> Result<(), ParseError> {
        let mut depth = 1;
        while depth > 0 {
            let t = self.c.peek();
            match t.text {
                "{" => {
                    self.c.next();
                    self.scope.open();
                    depth += 1;
                }
                "}" => {
                    self.c.next();
                    depth -= 1;
                    if depth > 0 {
                        self.scope.close();
                    }
                }
                ".reg" => self.registers()?,
                ".shared" | ".local" => {
                    self.c.next();
                    let space = if t.text == ".local" { Space::Local } else { Space::Shared };
                    self.variable(space, &mut body.local)?;
                }
                ".loc" => self.c.skip_line(),
                ".pragma" => {
                    self.c.next();
                    self.c.next();
                    self.c.expect(";")?;
                }
                ";" => {
                    self.c.next();
                }
                "@" => body.raw.push(inst::instruction(&mut self.c, &self.scope)?),
                _ if t.kind != Kind::Word => return Err(self.c.error(format!("`{}` starts no instruction", t.text))),
                _ if t.text.starts_with('.') => {
                    return Err(self.c.error(format!("`{}` is not known to the emulator in a kernel", t.text)));
                }
                _ => self.statement(body)?,
            }
        }
        Ok(())
    }

    /// A label or an instruction.
    fn statement(&mut self, body: &mut Body) -> Result<(), ParseError> {
        let t = self.c.next();
        if self.c.eat(":") {
            if body.labels.insert(t.text.into(), body.raw.len()).is_some() {
                return Err(ParseError { line: t.line, message: format!("label `{}` is defined twice", t.text) });
            }
            return Ok(());
        }
        self.c.at -= 1;
        body.raw.push(inst::instruction(&mut self.c, &self.scope)?);
        Ok(())
    }

    /// `.reg .b32 %r<10>, %x;`
    fn registers(&mut self) -> Result<(), ParseError> {
        self.c.expect(".reg")?;
        let ty = self.ty()?;
        loop {
            let name = self.c.word()?;
            let declared = if self.c.eat("<") {
                let n = self.c.number()?;
                self.c.expect(">")?;
                (0..n).try_for_each(|i| self.scope.declare(format!("{name}{i}"), ty))
            } else {
                self.scope.declare(name.into(), ty)
            };
            declared.map_err(|m| self.c.error(m))?;
            if !self.c.eat(",") {
                break;
            }
        }
        self.c.expect(";")?;
        Ok(())
    }
}
