//! Metadata values. Numbers and strings are copied out of the file; an array stays where it lies, checked once,
//! and is decoded as it is walked: a vocabulary of 150,000 strings costs nothing until somebody asks for it.

use super::cursor::Cursor;
use crate::error::Result;
use crate::tensor::Bytes;

/// A row for each type, in the order of their numbers in the file: variant, what it holds, name for people, bytes of a value
/// (of the shortest string: its length field; none for an array, which holds no arrays).
macro_rules! value_types {
    ($($name:ident($holds:ty) $text:literal $least:expr;)*) => {
        /// The type of a value, as the u32 in the file.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the names say it all")]
        #[repr(u32)]
        pub enum ValueType {
            $($name,)*
        }

        impl ValueType {
            const ALL: &[Self] = &[$(Self::$name),*];

            /// Bytes of a value; for a string, of the shortest one (its length field); `None` for an array.
            pub fn least_bytes(self) -> Option<usize> {
                match self {
                    $(Self::$name => $least,)*
                }
            }

            /// Name for people.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }

        /// A metadata value.
        #[derive(Debug, Clone, PartialEq)]
        #[expect(missing_docs, reason = "the names say it all")]
        pub enum Value {
            $($name($holds),)*
        }

        impl Value {
            /// The type of this value.
            pub fn value_type(&self) -> ValueType {
                match self {
                    $(Self::$name(_) => ValueType::$name,)*
                }
            }

            /// Reads a value of this type.
            pub(super) fn read(of: ValueType, cursor: &mut Cursor<'_>, what: &str) -> Result<Self> {
                Ok(match of {
                    $(ValueType::$name => Self::$name(InFile::read(cursor, what)?),)*
                })
            }

            /// Appends the value as it stands in a file, without its type.
            pub(super) fn write(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$name(x) => x.write(out),)*
                }
            }
        }
    };
}

value_types! {
    U8(u8) "u8" Some(1);
    I8(i8) "i8" Some(1);
    U16(u16) "u16" Some(2);
    I16(i16) "i16" Some(2);
    U32(u32) "u32" Some(4);
    I32(i32) "i32" Some(4);
    F32(f32) "f32" Some(4);
    Bool(bool) "bool" Some(1);
    Str(String) "string" Some(8);
    Array(Array) "array" None;
    U64(u64) "u64" Some(8);
    I64(i64) "i64" Some(8);
    F64(f64) "f64" Some(8);
}

/// What stands in a file as the value of some type.
trait InFile: Sized {
    /// Reads it; `what` names it in an error.
    fn read(cursor: &mut Cursor<'_>, what: &str) -> Result<Self>;
    /// Appends it.
    fn write(&self, out: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl InFile for $number {
            fn read(cursor: &mut Cursor<'_>, what: &str) -> Result<Self> {
                Ok(Self::from_le_bytes(cursor.array(what)?))
            }

            fn write(&self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
        }
    )*};
}

numbers!(u8 i8 u16 i16 u32 i32 f32 u64 i64 f64);

impl InFile for bool {
    fn read(cursor: &mut Cursor<'_>, what: &str) -> Result<Self> {
        cursor.bool(what)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push((*self).into());
    }
}

impl InFile for String {
    fn read(cursor: &mut Cursor<'_>, what: &str) -> Result<Self> {
        Ok(cursor.str(what)?.into())
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_str(self, out);
    }
}

impl InFile for Array {
    fn read(cursor: &mut Cursor<'_>, what: &str) -> Result<Self> {
        cursor.values(what)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend((self.element as u32).to_le_bytes());
        out.extend((self.count as u64).to_le_bytes());
        out.extend_from_slice(&self.bytes);
    }
}

impl ValueType {
    /// The type with this number.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(id as usize).copied()
    }
}

impl Value {
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
