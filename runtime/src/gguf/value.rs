//! Metadata values. Numbers and strings are copied out of the file; an array stays where it lies, checked once,
//! and is decoded as it is walked: a vocabulary of 150,000 strings costs nothing until somebody asks for it.

use crate::tensor::Bytes;

/// The type of a value, as the u32 in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it all")]
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Str,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The type with this number.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(id as usize).copied()
    }

    /// Bytes of a value; for a string, of the shortest one (its length field); `None` for an array.
    pub fn least_bytes(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 | Self::Str => Some(8),
            Self::Array => None,
        }
    }

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::Str => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// The type of this value.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::Str(_) => ValueType::Str,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The number of any integer type.
    pub fn integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(x) => x.into(),
            Self::I8(x) => x.into(),
            Self::U16(x) => x.into(),
            Self::I16(x) => x.into(),
            Self::U32(x) => x.into(),
            Self::I32(x) => x.into(),
            Self::U64(x) => x.into(),
            Self::I64(x) => x.into(),
            _ => return None,
        })
    }

    /// Appends the value as it stands in a file, without its type.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::U8(x) => out.push(*x),
            Self::I8(x) => out.extend(x.to_le_bytes()),
            Self::U16(x) => out.extend(x.to_le_bytes()),
            Self::I16(x) => out.extend(x.to_le_bytes()),
            Self::U32(x) => out.extend(x.to_le_bytes()),
            Self::I32(x) => out.extend(x.to_le_bytes()),
            Self::F32(x) => out.extend(x.to_le_bytes()),
            Self::Bool(x) => out.push((*x).into()),
            Self::Str(x) => write_str(x, out),
            Self::Array(x) => x.write(out),
            Self::U64(x) => out.extend(x.to_le_bytes()),
            Self::I64(x) => out.extend(x.to_le_bytes()),
            Self::F64(x) => out.extend(x.to_le_bytes()),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.into())
    }
}

/// An array of values of one type, as its elements stand in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Type of the elements; never an array.
    pub(super) element: ValueType,
    /// Number of elements.
    pub(super) count: usize,
    /// The elements, checked: whole, and strings in UTF-8.
    pub(super) bytes: Bytes,
}

impl Array {
    /// An array of strings.
    pub fn strings<'a>(items: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut bytes, mut count) = (Vec::new(), 0);
        for item in items {
            write_str(item, &mut bytes);
            count += 1;
        }
        Self { element: ValueType::Str, count, bytes: bytes.into() }
    }

    /// An array of i32.
    pub fn i32s(items: &[i32]) -> Self {
        let bytes: Vec<u8> = items.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self { element: ValueType::I32, count: items.len(), bytes: bytes.into() }
    }

    /// An array of f32.
    pub fn f32s(items: &[f32]) -> Self {
        let bytes: Vec<u8> = items.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self { element: ValueType::F32, count: items.len(), bytes: bytes.into() }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Type of the elements.
    pub fn element_type(&self) -> ValueType {
        self.element
    }

    /// The strings, or `None` when the elements are something else.
    pub fn as_strings(&self) -> Option<impl Iterator<Item = &str>> {
        (self.element == ValueType::Str).then(|| Strings(&self.bytes))
    }

    /// The elements, or `None` when they are not i32 or u32 numbers that fit an i32.
    pub fn as_i32s(&self) -> Option<Vec<i32>> {
        let words = self.bytes.as_chunks::<4>().0.iter();
        match self.element {
            ValueType::I32 => Some(words.map(|&word| i32::from_le_bytes(word)).collect()),
            ValueType::U32 => words.map(|&word| u32::from_le_bytes(word).try_into().ok()).collect(),
            _ => None,
        }
    }

    /// The elements, or `None` when they are not f32.
    pub fn as_f32s(&self) -> Option<Vec<f32>> {
        let words = self.bytes.as_chunks::<4>().0.iter();
        (self.element == ValueType::F32).then(|| words.map(|&word| f32::from_le_bytes(word)).collect())
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend((self.element as u32).to_le_bytes());
        out.extend((self.count as u64).to_le_bytes());
        out.extend_from_slice(&self.bytes);
    }
}

/// Walks checked strings: length, text, length, text.
struct Strings<'a>(&'a [u8]);

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (length, rest) = self.0.split_first_chunk::<8>()?;
        let (text, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

/// Appends a string as it stands in a file.
pub(super) fn write_str(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}
