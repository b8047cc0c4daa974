//! Writes the container, version 3: header, metadata, directory, then the tensors as a stream.

use std::collections::HashSet;
use std::io::{self, Write};

use super::layout::TensorType;
use super::value::{Value, write_str};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC};
use crate::error::{Error, Result};
use crate::pages::HUGE;

/// Writes the bytes of a tensor, in pieces of any size.
pub type Source<'a> = Box<dyn Fn(&mut dyn Write) -> io::Result<()> + 'a>;

/// A tensor to write.
pub struct NewTensor<'a> {
    /// GGUF name, shorter than 64 bytes.
    pub name: String,
    /// Dimensions, the fastest first.
    pub ne: Vec<usize>,
    /// Number format.
    pub kind: TensorType,
    /// Supplies exactly the bytes that `ne` and `kind` ask for.
    pub source: Source<'a>,
}

/// Writes a file. `general.alignment` in the metadata sets the alignment, otherwise it is 32.
pub fn write(out: &mut impl Write, metadata: &[(String, Value)], tensors: &[NewTensor]) -> Result<()> {
    let out = &mut HugePieces::new(out);
    let alignment = alignment_of(metadata)?;
    let (head, sizes) = header(metadata, tensors, alignment)?;
    let io = |e| Error::io("the GGUF file being written")(e);
    let pad = |size: usize| vec![0; size.next_multiple_of(alignment) - size];
    out.write_all(&head).and_then(|()| out.write_all(&pad(head.len()))).map_err(io)?;
    for (tensor, size) in tensors.iter().zip(sizes) {
        let mut counted = Counted { out, count: 0 };
        (tensor.source)(&mut counted).map_err(io)?;
        assert_eq!(counted.count, size, "bytes supplied for '{}'", tensor.name);
        out.write_all(&pad(size)).map_err(io)?;
    }
    out.flush().map_err(io)
}

fn alignment_of(metadata: &[(String, Value)]) -> Result<usize> {
    match metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some((_, Value::U32(n))) if n.is_power_of_two() && *n <= 1 << 16 => Ok(*n as usize),
        Some((_, other)) => Err(Error::Argument(format!(
            "{ALIGNMENT_KEY} is {other:?}, expected a u32 that is a power of two up to 65536"
        ))),
    }
}

/// Everything before the data, and the bytes of each tensor.
fn header(
    metadata: &[(String, Value)],
    tensors: &[NewTensor],
    alignment: usize,
) -> Result<(Vec<u8>, Vec<usize>)> {
    let mut head = MAGIC.to_vec();
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    let mut names = HashSet::new();
    for (key, value) in metadata {
        if !names.insert(key) {
            return Err(Error::Argument(format!("the metadata key '{key}' is given twice")));
        }
        write_str(key, &mut head);
        head.extend((value.value_type() as u32).to_le_bytes());
        value.write(&mut head);
    }
    let (mut offset, mut sizes) = (0usize, Vec::new());
    let mut names = HashSet::new();
    for tensor in tensors {
        let size = size_of(tensor)?;
        if tensor.name.len() > 63 || !names.insert(&tensor.name) {
            return Err(Error::Argument(format!("tensor name '{}' is too long or given twice", tensor.name)));
        }
        write_str(&tensor.name, &mut head);
        head.extend((tensor.ne.len() as u32).to_le_bytes());
        tensor.ne.iter().for_each(|&n| head.extend((n as u64).to_le_bytes()));
        head.extend(tensor.kind.id().to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += size.next_multiple_of(alignment);
        sizes.push(size);
    }
    Ok((head, sizes))
}

fn size_of(tensor: &NewTensor) -> Result<usize> {
    let sound = (1..=4).contains(&tensor.ne.len()) && !tensor.ne.contains(&0);
    tensor.kind.bytes(&tensor.ne).filter(|_| sound).ok_or_else(|| {
        Error::Argument(format!(
            "tensor '{}' of {:?} cannot be written as {}",
            tensor.name,
            tensor.ne,
            tensor.kind.name()
        ))
    })
}

/// Passes bytes on in pieces of whole huge pages: in such a system with large folios then keeps the file in memory, where
/// [`Bytes::map_weights`](crate::tensor::Bytes::map_weights) finds them.
struct HugePieces<'a, W: Write> {
    out: &'a mut W,
    piece: Vec<u8>,
}

impl<'a, W: Write> HugePieces<'a, W> {
    const SIZE: usize = 2 * HUGE;

    fn new(out: &'a mut W) -> Self {
        Self { out, piece: Vec::new() }
    }

    fn pass_on(&mut self) -> io::Result<()> {
        self.out.write_all(&self.piece)?;
        self.piece.clear();
        Ok(())
    }
}

impl<W: Write> Write for HugePieces<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let some = bytes.len().min(Self::SIZE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..some]);
        if self.piece.len() == Self::SIZE {
            self.pass_on()?;
        }
        Ok(some)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on()?;
        self.out.flush()
    }
}

/// Passes bytes on and counts them.
struct Counted<'a, W> {
    out: &'a mut W,
    count: usize,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.count += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
