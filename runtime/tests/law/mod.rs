//! The law of the loader, for tests and for the fuzzer: bytes that open have every tensor with the shape of the
//! table, and what is written from them opens as the same.

use std::path::Path;

use bonsai_runtime::ModelFile;
use bonsai_runtime::gguf::{Evidence, Gguf, NewTensor, Value, write};
use bonsai_runtime::tensor::Bytes;

/// The largest alignment that the writer offers.
const WRITABLE_ALIGNMENT: u32 = 1 << 16;

/// Panics when the law is broken. True when the bytes are a model.
pub fn check(bytes: &[u8]) -> bool {
    let (bytes, name): (Bytes, _) = (bytes.to_vec().into(), Path::new("law.gguf"));
    if let Ok(file) = Gguf::from_bytes(bytes.clone(), name) {
        check_container(&file, name);
    }
    let Ok(model) = ModelFile::from_bytes(&bytes, name) else { return false };
    let table = model.config.tensors();
    assert_eq!(table.len(), model.tensors.len());
    for spec in table {
        let tensor = &model.tensors[&spec.name];
        assert_eq!((tensor.rows, tensor.cols), (spec.rows, spec.cols), "{}", spec.name);
        assert_eq!(Some(tensor.row_bytes()), tensor.format.row_bytes(tensor.cols));
        tensor.read_row(tensor.rows - 1, &mut vec![0.0; tensor.cols]);
    }
    true
}

fn check_container(file: &Gguf, name: &Path) {
    for info in file.tensors() {
        let tensor = file.tensor(&info.name).unwrap();
        assert_eq!(tensor.rows * tensor.cols, info.ne.iter().product::<usize>());
        assert_eq!(Some(tensor.bytes.len()), tensor.format.row_bytes(tensor.cols).map(|n| n * tensor.rows));
    }
    let alignment = file.metadata().u32("general.alignment").unwrap().unwrap_or(32);
    let certain = matches!(file.evidence(), None | Some(Evidence::Offsets));
    if alignment > WRITABLE_ALIGNMENT || !certain {
        return;
    }
    let written = rewrite(file, file.metadata().entries());
    let again = Gguf::from_bytes(written.clone().into(), name).unwrap();
    assert_eq!(again.tensors(), file.tensors());
    for info in file.tensors() {
        assert_eq!(again.tensor(&info.name), file.tensor(&info.name));
    }
    // Bytes and not values: NaN is not equal to itself.
    assert_eq!(rewrite(&again, again.metadata().entries()), written);
}

/// The tensors of a container, written again beside these entries.
pub fn rewrite(file: &Gguf, entries: &[(String, Value)]) -> Vec<u8> {
    let tensors: Vec<NewTensor> = file
        .tensors()
        .iter()
        .map(|info| {
            let bytes = file.tensor(&info.name).unwrap().bytes;
            let source = Box::new(move |out: &mut dyn std::io::Write| out.write_all(&bytes));
            NewTensor { name: info.name.clone(), ne: info.ne.clone(), kind: info.kind, source }
        })
        .collect();
    let mut out = Vec::new();
    write(&mut out, entries, &tensors).unwrap();
    out
}
