//! Files made to break loaders. Each known attack on GGUF readers (the CVEs of llama.cpp, Ollama, candle and
//! others) is a test: it must end in a sentence, without a panic and without a large allocation.
#![allow(clippy::unwrap_used, reason = "tests")]

mod law;
mod tiny;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use bonsai_runtime::gguf::{Array, Gguf, PackedFormat, Value};
use bonsai_runtime::{Config, Error, ModelFile};

/// Notes the largest allocation of each thread.
struct Watch;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator as it is.
#[expect(unsafe_code, reason = "an allocator cannot be safe code; this one only watches")]
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static WATCH: Watch = Watch;

/// The largest single allocation while `work` runs.
fn largest_allocation<T>(work: impl FnOnce() -> T) -> (T, usize) {
    LARGEST.set(0);
    let result = work();
    (result, LARGEST.get())
}

/// Allocations beyond this would be the file's doing: a hash table for all its entries fits.
const MODEST: usize = 64 * 1024;

/// With a tokenizer: the `tokenizers` crate sets up its cache of 10,000 words at once, whatever the file says.
const MODEST_WITH_TOKENIZER: usize = 512 * 1024;

/// A file written by hand: nothing here stops it from lying.
#[derive(Clone)]
struct Raw {
    version: u32,
    tensor_count: u64,
    entry_count: u64,
    entries: Vec<u8>,
    infos: Vec<u8>,
    alignment: usize,
    data: usize,
}

impl Raw {
    fn new() -> Self {
        let (entries, infos) = (vec![], vec![]);
        Self { version: 3, tensor_count: 0, entry_count: 0, entries, infos, alignment: 32, data: 0 }
    }

    fn qwen3() -> Self {
        let eps = 1e-6f32.to_le_bytes();
        Self::new()
            .text("general.architecture", "qwen3")
            .u32("qwen3.block_count", 1)
            .u32("qwen3.context_length", 64)
            .u32("qwen3.embedding_length", 64)
            .u32("qwen3.feed_forward_length", 64)
            .u32("qwen3.attention.head_count", 2)
            .entry("qwen3.attention.layer_norm_rms_epsilon", 6, &eps)
    }

    fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.entry_count += 1;
        self.entries.extend((key.len() as u64).to_le_bytes());
        self.entries.extend(key.as_bytes());
        self.entries.extend(kind.to_le_bytes());
        self.entries.extend(value);
        self
    }

    fn u32(self, key: &str, value: u32) -> Self {
        self.entry(key, 4, &value.to_le_bytes())
    }

    fn text(self, key: &str, value: &str) -> Self {
        let length = (value.len() as u64).to_le_bytes();
        self.entry(key, 8, &[&length, value.as_bytes()].concat())
    }

    fn array(self, key: &str, element: u32, count: u64, bytes: &[u8]) -> Self {
        self.entry(key, 9, &[&element.to_le_bytes()[..], &count.to_le_bytes(), bytes].concat())
    }

    fn tensor(mut self, name: &str, ne: &[u64], kind: u32, offset: u64) -> Self {
        self.tensor_count += 1;
        self.infos.extend((name.len() as u64).to_le_bytes());
        self.infos.extend(name.as_bytes());
        self.infos.extend((ne.len() as u32).to_le_bytes());
        ne.iter().for_each(|n| self.infos.extend(n.to_le_bytes()));
        self.infos.extend(kind.to_le_bytes());
        self.infos.extend(offset.to_le_bytes());
        self
    }

    fn data(self, data: usize) -> Self {
        Self { data, ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.tensor_count.to_le_bytes());
        bytes.extend(self.entry_count.to_le_bytes());
        bytes.extend(&self.entries);
        bytes.extend(&self.infos);
        bytes.resize(bytes.len().next_multiple_of(self.alignment) + self.data, 0);
        bytes
    }
}

/// Opens as a container.
fn container(bytes: Vec<u8>) -> Result<Gguf, Error> {
    let bytes = bytes.into();
    let (result, largest) = largest_allocation(|| Gguf::from_bytes(bytes, Path::new("evil.gguf")));
    assert!(largest < MODEST, "an allocation of {largest} bytes");
    result
}

/// Opens as a model.
fn model(bytes: Vec<u8>) -> Result<ModelFile, Error> {
    let bytes = bytes.into();
    let (result, largest) = largest_allocation(|| ModelFile::from_bytes(&bytes, Path::new("evil.gguf")));
    assert!(largest < MODEST_WITH_TOKENIZER, "an allocation of {largest} bytes");
    result
}

#[track_caller]
fn refused<T>(result: Result<T, Error>, expected: &str) {
    let error = result.err().expect("a hostile file opened").to_string();
    assert!(error.contains(expected), "expected \"{expected}\" in: {error}");
}

#[test]
fn counts_that_no_file_could_hold() {
    for count in [1, 2, u64::from(u32::MAX), 1 << 62, 1 << 63, u64::MAX] {
        refused(container(Raw { tensor_count: count, ..Raw::new() }.bytes()), "the number of tensors is");
        refused(
            container(Raw { entry_count: count, ..Raw::new() }.bytes()),
            "the number of metadata entries is",
        );
    }
}

#[test]
fn lengths_that_no_file_could_hold() {
    for length in [1000, u64::from(u32::MAX), 1 << 31, 1 << 62, 1 << 63, u64::MAX] {
        let length_bytes = length.to_le_bytes();
        refused(container(Raw::new().entry("a", 8, &length_bytes).bytes()), &format!("needs {length} bytes"));
        for element in [0, 4, 7, 8, 12] {
            refused(container(Raw::new().array("a", element, length, &[]).bytes()), "has room for at most");
        }
        let mut name = Raw::new();
        name.tensor_count = 1;
        name.infos.extend(length_bytes);
        refused(container(name.data(64).bytes()), &format!("needs {length} bytes"));
        // A length inside of an array of strings.
        refused(
            container(Raw::new().array("a", 8, 1, &length_bytes).bytes()),
            &format!("needs {length} bytes"),
        );
    }
}

#[test]
fn a_file_of_160_bytes_does_not_ask_for_gigabytes() {
    let tokens = Raw::new().array("tokenizer.ggml.tokens", 8, 1 << 34, &[0; 60]).bytes();
    assert!(tokens.len() <= 160);
    refused(container(tokens), "has room for at most");
    // The table of tensors follows from a number in the metadata.
    let layers = Raw::qwen3().entry("qwen3.block_count2", 4, &[0; 4]);
    let mut bytes = layers.bytes();
    let at = find(&bytes, b"qwen3.block_count") + 17 + 4;
    bytes[at..at + 4].copy_from_slice(&(1u32 << 24).to_le_bytes());
    refused(model(bytes), "too few for 16777216 layers");
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).unwrap()
}

#[test]
fn dimensions_that_overflow() {
    let big = u64::from(u32::MAX) + 1;
    for ne in [&[big, big][..], &[1 << 62, 4], &[1 << 31, 1 << 31, 4], &[i64::MAX as u64, 3], &[1 << 32; 4]] {
        refused(container(Raw::new().tensor("a", ne, 0, 0).data(64).bytes()), "larger than any file");
    }
    if cfg!(target_pointer_width = "32") {
        return; // what follows is larger than any file there, too
    }
    // The count fits a u64; as F32 the bytes do not, as F16 just so.
    for ne in [&[1 << 31, 1 << 31][..], &[1 << 62]] {
        refused(container(Raw::new().tensor("a", ne, 0, 0).data(64).bytes()), "larger than any file");
        refused(container(Raw::new().tensor("a", ne, 1, 0).data(64).bytes()), "but the file has only 64");
    }
    // Beyond 32 bits: 2^32 + 4 must not become 4.
    let cut = Raw::new().tensor("a", &[(1 << 32) + 4], 0, 0).data(64).bytes();
    refused(container(cut), "ends at byte 17179869200 of the data, but the file has only 64");
}

#[test]
fn dimensions_that_are_none() {
    for n in [0, 1 << 63, u64::MAX] {
        refused(
            container(Raw::new().tensor("a", &[4, n], 0, 0).data(64).bytes()),
            &format!("a dimension of {}", n as i64),
        );
    }
    for ne in [&[][..], &[1; 5], &[1; 300]] {
        refused(
            container(Raw::new().tensor("a", ne, 0, 0).data(64).bytes()),
            &format!("has {} dimensions, expected 1 to 4", ne.len()),
        );
    }
}

#[test]
fn sizes_whose_sum_wraps() {
    if cfg!(target_pointer_width = "32") {
        return; // one of them alone is larger than any file there
    }
    let size = 1u64 << 62;
    for (count, expected) in
        [(3, "but the file has only 64"), (5, "tensor 't3' would be larger than any file")]
    {
        let mut raw = Raw::new();
        for n in 0..count {
            raw = raw.tensor(&format!("t{n}"), &[size / 4], 0, size.wrapping_mul(n));
        }
        refused(container(raw.data(64).bytes()), expected);
    }
    // The end fits an i64, padding it does not.
    let raw = Raw::new().tensor("a", &[u64::MAX / 4 / 2], 0, 0).tensor("b", &[4], 0, 1 << 63);
    refused(container(raw.data(64).bytes()), "tensor 'a' ends at byte 9223372036854775804 of the data");
}

#[test]
fn alignments_that_are_none() {
    for alignment in [0, 3, 33, u32::MAX] {
        refused(
            container(Raw::new().u32("general.alignment", alignment).bytes()),
            &format!("'general.alignment' is {alignment}, expected a power of two"),
        );
    }
    for (kind, bytes) in [(10, &[32, 0, 0, 0, 0, 0, 0, 0][..]), (5, &[32, 0, 0, 0]), (0, &[32])] {
        let raw = Raw::new().entry("general.alignment", kind, bytes);
        refused(container(raw.bytes()), "should be a u32");
    }
    // Huge, but a power of two: nothing is where it should be.
    let huge = Raw::new().u32("general.alignment", 1 << 31).tensor("a", &[4], 0, 0).data(64);
    refused(container(huge.bytes()), "but the file has only 0");
}

#[test]
fn tensors_outside_of_the_file() {
    for offset in [32, 1 << 20, 1 << 63, u64::MAX, u64::MAX - 31] {
        let error = || container(Raw::new().tensor("a", &[4], 0, offset).data(64).bytes());
        let reason = match usize::try_from(offset) {
            Ok(_) => "of the data, expected 0",
            Err(_) => "behind the end of any file", // on a machine of 32 bits
        };
        refused(error(), &format!("starts at byte {offset}"));
        refused(error(), reason);
    }
    // Two tensors in one place: a second name for the bytes of the first.
    let twins = Raw::new().tensor("a", &[4], 0, 0).tensor("b", &[4], 0, 0).data(64);
    refused(container(twins.bytes()), "tensor 'b' starts at byte 0 of the data, expected 32");
    let unaligned = Raw::new().tensor("a", &[4], 0, 0).tensor("b", &[4], 0, 16).data(64);
    refused(container(unaligned.bytes()), "tensor 'b' starts at byte 16 of the data, expected 32");
    refused(container(Raw::new().tensor("a", &[17], 0, 0).data(64).bytes()), "but the file has only 64");
}

#[test]
fn names_that_are_none() {
    let long = "x".repeat(64);
    refused(
        container(Raw::new().tensor(&long, &[4], 0, 0).data(64).bytes()),
        "has 64 bytes, expected at most 63",
    );
    let twice = Raw::new().tensor("a", &[4], 0, 0).tensor("a", &[4], 0, 32).data(64);
    refused(container(twice.bytes()), "tensor 'a' occurs twice");
    refused(container(Raw::new().u32("k", 1).u32("k", 2).bytes()), "key 'k' occurs twice");
    let mut raw = Raw::new().entry("k", 8, &[2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe]);
    refused(container(raw.bytes()), "is not UTF-8");
    raw = Raw::new().array("k", 8, 1, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]);
    refused(container(raw.bytes()), "is not UTF-8");
}

#[test]
fn types_that_are_none() {
    for kind in [13, 255, u32::MAX] {
        refused(container(Raw::new().entry("k", kind, &[0; 32]).bytes()), "the types of GGUF are 0 to 12");
        refused(container(Raw::new().array("k", kind, 1, &[0; 32]).bytes()), "the types of GGUF are 0 to 12");
    }
    refused(container(Raw::new().array("k", 9, 1, &[0; 32]).bytes()), "an array of arrays");
    refused(container(Raw::new().entry("k", 7, &[2]).bytes()), "truth value 2");
    refused(container(Raw::new().array("k", 7, 3, &[0, 1, 7]).bytes()), "truth value 7");
}

#[test]
fn foreign_number_formats_are_named() {
    for (id, name) in [(10, "Q2_K"), (11, "Q3_K"), (41, "Q1_0"), (77, "unknown")] {
        let error = container(Raw::new().tensor("blk.0.x", &[256], id, 0).data(512).bytes());
        refused(error, &format!("tensor 'blk.0.x' has number format {id} ("));
        refused(container(Raw::new().tensor("a", &[256], id, 0).data(512).bytes()), name);
    }
}

#[test]
fn quantised_rows_that_are_no_blocks() {
    let of_32 = [(2, "Q4_0"), (3, "Q4_1"), (6, "Q5_0"), (7, "Q5_1"), (8, "Q8_0")].map(|kind| (kind, 32));
    let of_256 = [(12, "Q4_K"), (13, "Q5_K"), (14, "Q6_K")].map(|kind| (kind, 256));
    for ((id, name), group) in of_32.into_iter().chain(of_256) {
        let rows = |cols: u64| container(Raw::new().tensor("a", &[cols, 1], id, 0).data(512).bytes());
        assert_eq!(rows(group).unwrap().tensor("a").unwrap().format.name(), name);
        refused(rows(group + 16), &format!("do not divide into groups of {group}"));
        // Their number fits a u64, their bytes do not fit the file, or no file at all.
        refused(rows(group << 20), "but the file has only 512");
        if cfg!(target_pointer_width = "64") {
            let error = rows(1 << 62).expect_err("a hostile file opened").to_string();
            assert!(error.contains("larger than any file") || error.contains("only 512"), "{error}");
        }
    }
}

#[test]
fn foreign_containers_are_named() {
    refused(container(b"PK\x03\x04 and so on, a zip file".to_vec()), "does not begin with GGUF");
    refused(container(vec![]), "the mark of a GGUF file needs 4 bytes");
    refused(container(Raw { version: 1, ..Raw::new() }.bytes()), "not supported: GGUF version 1");
    refused(container(Raw { version: 3 << 24, ..Raw::new() }.bytes()), "big-endian");
    for version in [0, 4, 77] {
        let raw = Raw { version, ..Raw::new() };
        refused(container(raw.bytes()), &format!("version {version}, expected 2 or 3"));
    }
    // A file of 43 bytes that sent another reader round and round.
    let mut short = Raw { entry_count: u64::MAX, ..Raw::new() }.bytes();
    short.resize(43, 0xff);
    refused(container(short), "the number of metadata entries is");
}

#[test]
fn foreign_models_are_named() {
    refused(model(Raw::new().bytes()), "'general.architecture' is missing");
    refused(model(Raw::new().u32("general.architecture", 3).bytes()), "should be a string");
    for name in ["qwen35", "bert"] {
        refused(
            model(Raw::new().text("general.architecture", name).bytes()),
            &format!("architecture '{name}': only qwen3 and llama are"),
        );
    }
    refused(
        model(Raw::new().text("general.architecture", "llama").bytes()),
        "'llama.block_count' is missing",
    );
    refused(
        model(Raw::qwen3().u32("prism.hadamard.version", 1).bytes()),
        "'prism.hadamard.version' changes what",
    );
    refused(model(Raw::qwen3().u32("prism.news", 1).bytes()), "'prism.news'");
    refused(model(Raw::qwen3().entry("split.count", 2, &[3, 0]).bytes()), "split into 3 files");
    // Refused for what it is, not for the number format that it comes in.
    let bonsai_2 = Raw::new().text("general.architecture", "qwen35").tensor("a", &[256], 143, 0).data(512);
    refused(model(bonsai_2.bytes()), "architecture 'qwen35'");
}

/// A whole small model, with its header in reach.
fn small() -> Vec<u8> {
    tiny::gguf(&tiny::config(), PackedFormat::Q2_0G64)
}

/// The bytes before the data.
fn header_len(bytes: &[u8]) -> usize {
    find(bytes, b"output_norm.weight") + 18 + 4 + 8 + 4 + 8
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = small();
    assert!(law::check(&whole));
    for length in 0..whole.len() {
        // The last tensor is a norm of 64 floats: no padding follows, so every byte counts.
        assert!(model(whole[..length].to_vec()).is_err(), "opened with {length} of {} bytes", whole.len());
    }
}

#[test]
fn a_header_with_any_wrong_byte_is_refused_or_keeps_the_law() {
    damage_header(small());
}

#[test]
fn a_llama_header_with_any_wrong_byte_is_refused_or_keeps_the_law() {
    let config = Config { qk_norm_eps: None, ..tiny::config() };
    damage_header(tiny::gguf(&config, PackedFormat::Q2_0G64));
}

fn damage_header(whole: Vec<u8>) {
    let header = header_len(&whole);
    let mut opened = 0;
    for at in 0..header {
        for byte in [whole[at] ^ 1, whole[at] ^ 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] = byte;
            let (open, largest) = largest_allocation(|| law::check(&damaged));
            assert!(largest < MODEST_WITH_TOKENIZER, "byte {at} = {byte}: an allocation of {largest} bytes");
            opened += usize::from(open);
        }
    }
    // Names and texts may change without harm; most of the header may not.
    assert!(opened > 0 && opened < header * 2, "{opened} of {} opened", header * 3);
}

#[test]
fn every_key_with_a_wrong_type_is_refused_or_unread() {
    let whole = small();
    let file = Gguf::from_bytes(whole.clone().into(), Path::new("small.gguf")).unwrap();
    let keys: Vec<String> = file.metadata().entries().iter().map(|(key, _)| key.clone()).collect();
    let unread = ["general.type", "general.name", "general.file_type", "general.quantization_version"];
    for key in keys {
        let mut entries = file.metadata().entries().to_vec();
        let entry = entries.iter_mut().find(|(name, _)| *name == key).unwrap();
        entry.1 = Value::Array(Array::f32s(&[1.0]));
        let result = model(law::rewrite(&file, &entries));
        if unread.contains(&key.as_str()) || key == "qwen3.vocab_size" {
            result.map(drop).unwrap();
        } else {
            refused(result, &format!("'{key}' should be "));
        }
    }
}
