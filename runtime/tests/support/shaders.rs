//! Translates shaders for every system, without one: what naga refuses here would fail on somebody's machine. The
//! trainer's tests include this file, too.

use bonsai_runtime::gpu::shader::{Access, Constants, Shader};
use naga::back::{glsl, hlsl, msl, pipeline_constants::process_overrides, spv};
use naga::valid::{Capabilities, ModuleInfo, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage, StorageAccess};

/// Instructions that Apple's GPUs have not, and work through several others for.
const SLOW_ON_APPLE: [&str; 4] = ["dot4I8Packed", "dot4U8Packed", "pack4x8snorm", "extractBits"];

/// Panics unless a shader keeps to the portable subset of WGSL, has the bindings that it declares, and can be translated
/// to Metal, SPIR-V, HLSL and GLSL with each of its sets of constants. Returns Metal's text of the last.
pub fn check(shader: &Shader) -> String {
    let name = shader.name;
    let module = naga::front::wgsl::parse_str(&shader.text())
        .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&shader.text())));
    for slow in SLOW_ON_APPLE {
        assert!(!shader.source.contains(slow), "{name}: {slow} is slow on Apple's GPUs");
    }
    bindings(shader, &module);
    assert!(!shader.variants.is_empty(), "{name}: no variants");
    let metal = shader.variants.iter().map(|constants| translate(shader, &module, constants));
    metal.fold(String::new(), |_, text| text)
}

/// The declared bindings are those of the text.
fn bindings(shader: &Shader, module: &Module) {
    let mut found = vec![None; shader.bindings.len()];
    for (_, global) in module.global_variables.iter() {
        let Some(binding) = global.binding else { continue };
        match (global.space, binding.group) {
            (AddressSpace::Storage { access }, 0) => {
                let writes = access.contains(StorageAccess::STORE);
                let access = if writes { Access::Write } else { Access::Read };
                let place = found.get_mut(binding.binding as usize);
                *place.unwrap_or_else(|| panic!("{}: an undeclared binding", shader.name)) = Some(access);
            }
            (AddressSpace::Uniform, 1) => assert_eq!(binding.binding, 0, "{}", shader.name),
            other => panic!("{}: a global in {other:?}", shader.name),
        }
    }
    let declared: Vec<_> = shader.bindings.iter().copied().map(Some).collect();
    assert_eq!(found, declared, "{}: bindings", shader.name);
}

fn translate(shader: &Shader, module: &Module, constants: Constants) -> String {
    let (name, subgroups) = (shader.name, shader.needs_subgroups());
    let validate = |module: &Module| -> ModuleInfo {
        let portable = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        let mut validator = Validator::new(ValidationFlags::all(), portable);
        if subgroups {
            validator = Validator::new(ValidationFlags::all(), portable | Capabilities::SUBGROUP);
            validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
            validator.subgroup_operations(SubgroupOperationSet::BASIC | SubgroupOperationSet::ARITHMETIC);
        }
        let checked = validator.validate(module);
        checked.unwrap_or_else(|e| panic!("{name} {constants:?}: {e:?}"))
    };
    let entry = module.entry_points[0].name.clone();
    assert!(module.entry_points.len() == 1 && entry == name, "{name}: its one entry point is {entry}");
    for (constant, _) in constants {
        let known = module.overrides.iter().any(|(_, o)| o.name.as_deref() == Some(constant));
        assert!(known, "{name}: no constant {constant}");
    }
    let values = constants.iter().map(|(name, value)| (name.to_string(), *value)).collect();
    let info = validate(module);
    let stage = Some((ShaderStage::Compute, entry.as_str()));
    let (module, _) = process_overrides(module, &info, stage, &values)
        .unwrap_or_else(|e| panic!("{name} {constants:?}: {e}"));
    let info = validate(&module);
    let threads: u32 = module.entry_points[0].workgroup_size.iter().product();
    assert!(threads <= 256, "{name} {constants:?}: {threads} threads");
    let sizes = module.global_variables.iter().filter(|(_, g)| g.space == AddressSpace::WorkGroup);
    let shared: u32 = sizes.map(|(_, g)| module.types[g.ty].inner.size(module.to_ctx())).sum();
    assert!(shared <= 16 << 10, "{name} {constants:?}: {shared} bytes of workgroup memory");

    let fail = |system: &str, e: &dyn std::fmt::Debug| panic!("{name} {constants:?} as {system}: {e:?}");
    let options = spv::Options { lang_version: (1, if subgroups { 3 } else { 1 }), ..Default::default() };
    if let Err(e) = spv::write_vec(&module, &info, &options, None) {
        fail("SPIR-V", &e);
    }
    let mut text = String::new();
    let options = hlsl::Options { shader_model: hlsl::ShaderModel::V6_0, ..Default::default() };
    let pipeline = hlsl::PipelineOptions::default();
    if let Err(e) = hlsl::Writer::new(&mut text, &options, &pipeline).write(&module, &info, None) {
        fail("HLSL", &e);
    }
    let options = glsl::Options { version: glsl::Version::new_gles(310), ..Default::default() };
    let pipeline = glsl::PipelineOptions {
        shader_stage: ShaderStage::Compute,
        entry_point: entry.clone(),
        multiview: None,
    };
    text.clear();
    let written = glsl::Writer::new(&mut text, &module, &info, &options, &pipeline, Default::default());
    if let Err(e) = written.and_then(|mut writer| writer.write()) {
        fail("GLSL", &e);
    }
    let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
    match msl::write_string(&module, &info, &options, &msl::PipelineOptions::default()) {
        Ok((text, _)) => text,
        Err(e) => {
            fail("Metal", &e);
            String::new()
        }
    }
}
