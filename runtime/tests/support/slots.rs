//! Estimates what a product of one token costs on Apple's GPUs: issue slots for each weight, counted in the module that
//! naga writes as Metal's text, one operation of the text for each expression.
//!
//! Slots are those that were measured on the M1 (philipturner/metal-benchmarks): 1 for additions, products, masks and
//! selections, 4 for shifts, conversions and integer products. Halves are free where they are operands.

use bonsai_runtime::gpu::shader::{Constants, Shader};
use naga::back::pipeline_constants::process_overrides;
use naga::valid::{Capabilities, FunctionInfo, ModuleInfo, ValidationFlags, Validator};
use naga::{
    AddressSpace, BinaryOperator as Op, Block, Expression as E, Function, Handle, Literal, MathFunction,
};
use naga::{Module, Scalar, ScalarKind, ShaderStage, Statement, TypeInner};

/// Operations of one turn of the loop over words, by what they are for.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Turn {
    /// Masks.
    pub masks: u32,
    /// Shifts of words.
    pub shifts: u32,
    /// Integers to floats.
    pub converts: u32,
    /// Pairs of halves as floats.
    pub unpacks: u32,
    /// Sums and products of floats.
    pub floats: u32,
    /// Where things lie: integer sums, products, comparisons. Compilers take most of it out of the loop.
    pub addresses: u32,
    /// Words read from memory.
    pub words: u32,
}

impl Turn {
    /// Slots without addresses, and with them as they are written.
    pub fn slots(&self) -> [u32; 2] {
        let decode = self.masks + 4 * self.shifts + 4 * self.converts + self.floats;
        [decode, decode + self.addresses]
    }
}

/// One turn of the loop in `function` of a shader with these constants.
pub fn of_loop(shader: &Shader, function: &str, constants: Constants) -> Turn {
    let module = naga::front::wgsl::parse_str(&shader.text()).unwrap();
    let validate = |module: &Module| -> ModuleInfo {
        let capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32 | Capabilities::SUBGROUP;
        let mut validator = Validator::new(ValidationFlags::all(), capabilities);
        validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
        validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
        validator.validate(module).unwrap()
    };
    let info = validate(&module);
    let values = constants.iter().map(|(name, value)| (name.to_string(), *value)).collect();
    let stage = Some((ShaderStage::Compute, shader.name));
    let (module, _) = process_overrides(&module, &info, stage, &values).unwrap();
    let info = validate(&module);
    let count = Count { module: &module, info: &info };
    let named = |(_, f): &(_, &Function)| f.name.as_deref() == Some(function);
    let (handle, f) = module.functions.iter().find(named).unwrap();
    let of = Of { f, info: &info[handle] };
    let found = f.body.iter().find_map(|statement| match statement {
        Statement::Loop { body, continuing, .. } => Some([body, continuing]),
        _ => None,
    });
    let mut turn = Turn::default();
    found.expect("a loop").iter().for_each(|block| count.block(&of, block, &mut turn));
    turn
}

struct Count<'a> {
    module: &'a Module,
    info: &'a ModuleInfo,
}

/// A function with the types of its expressions.
struct Of<'a> {
    f: &'a Function,
    info: &'a FunctionInfo,
}

impl Count<'_> {
    fn block(&self, of: &Of, block: &Block, turn: &mut Turn) {
        for statement in block.iter() {
            match statement {
                Statement::Emit(range) => range.clone().for_each(|e| self.expression(of, e, turn)),
                Statement::Block(block) => self.block(of, block, turn),
                Statement::If { condition, accept, reject } => match self.known(of, *condition) {
                    Some(true) => {
                        self.block(of, accept, turn);
                        if returns(accept) {
                            return;
                        }
                    }
                    Some(false) => self.block(of, reject, turn),
                    None => [accept, reject].iter().for_each(|block| self.block(of, block, turn)),
                },
                Statement::Call { function, .. } => {
                    let of = Of { f: &self.module.functions[*function], info: &self.info[*function] };
                    self.block(&of, &of.f.body, turn);
                }
                Statement::Loop { .. } => panic!("a loop in the loop"),
                _ => {}
            }
        }
    }

    /// A condition that is a constant once the overrides are in.
    fn known(&self, of: &Of, e: Handle<E>) -> Option<bool> {
        match &of.f.expressions[e] {
            E::Literal(Literal::Bool(b)) => Some(*b),
            E::Constant(c) => match self.module.global_expressions[self.module.constants[*c].init] {
                E::Literal(Literal::Bool(b)) => Some(b),
                _ => None,
            },
            _ => None,
        }
    }

    fn expression(&self, of: &Of, e: Handle<E>, turn: &mut Turn) {
        let (scalar, n) = self.width(of, e);
        let float = |scalar: Option<Scalar>| scalar.is_some_and(|s| s.kind == ScalarKind::Float);
        match &of.f.expressions[e] {
            E::Binary { op, left, .. } if float(self.width(of, *left).0) => {
                assert_ne!(*op, Op::Divide, "a division in the loop");
                turn.floats += n;
            }
            E::Binary { op: Op::And, .. } => turn.masks += n,
            E::Binary { op: Op::ShiftLeft | Op::ShiftRight, .. } => turn.shifts += n,
            E::Binary { op: Op::Multiply | Op::Divide, .. } => turn.addresses += 4 * n,
            E::Binary { .. } => turn.addresses += n,
            E::Select { .. } => turn.floats += n,
            E::As { convert: Some(_), .. } if float(scalar) => turn.converts += n,
            E::Math { fun: MathFunction::Dot, arg, .. } => turn.floats += self.width(of, *arg).1,
            E::Math { fun: MathFunction::Unpack2x16float, .. } => turn.unpacks += 1,
            E::Math { .. } => turn.floats += n,
            E::Load { pointer } => {
                let pointer = of.info[*pointer].ty.inner_with(&self.module.types).pointer_space();
                if let Some(AddressSpace::Storage { .. }) = pointer {
                    turn.words += n;
                }
            }
            _ => {}
        }
    }

    /// What an expression is made of, and of how many.
    fn width(&self, of: &Of, e: Handle<E>) -> (Option<Scalar>, u32) {
        match *of.info[e].ty.inner_with(&self.module.types) {
            TypeInner::Scalar(scalar) => (Some(scalar), 1),
            TypeInner::Vector { size, scalar } => (Some(scalar), size as u32),
            TypeInner::Matrix { columns, rows, scalar } => (Some(scalar), columns as u32 * rows as u32),
            _ => (None, 0),
        }
    }
}

fn returns(block: &Block) -> bool {
    block.iter().any(|statement| matches!(statement, Statement::Return { .. }))
}
