//! A file as a stream of plain bytes, and what its name or its first bytes say about it.

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Enough to tell a format by: a header line may be long.
const HEAD_BYTES: usize = 16 << 10;
const BUFFER_BYTES: usize = 64 << 10;

/// How records stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// One on each line.
    Lines,
    /// JSON values, in one array or one after the other.
    Elements,
    /// CSV or TSV with a header.
    Rows { delimiter: u8 },
    /// Nothing at all.
    Empty,
}

#[derive(Clone, Copy)]
enum Packing {
    Gzip,
    Xz,
    Zstd,
}

impl Format {
    /// What the name says; `None` where it says nothing.
    pub(super) fn by_name(path: &Path) -> Result<Option<Format>, String> {
        match extensions(path).1.as_deref() {
            Some("ndjson" | "jsonl") => Ok(Some(Format::Lines)),
            Some("csv") => Ok(Some(Format::Rows { delimiter: b',' })),
            Some("tsv" | "tab") => Ok(Some(Format::Rows { delimiter: b'\t' })),
            Some("tar" | "zip" | "tgz" | "7z") => Err("an archive cannot be replayed; unpack it first".to_owned()),
            // "json" is used for one value as well as for a value on each line.
            _ => Ok(None),
        }
    }
}

/// How it is packed and the extension that is left, in lower case.
fn extensions(path: &Path) -> (Option<Packing>, Option<String>) {
    let extension = |p: &Path| p.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    let packing = match extension(path).as_deref() {
        Some("gz") => Packing::Gzip,
        Some("xz") => Packing::Xz,
        Some("zst") => Packing::Zstd,
        other => return (None, other.map(str::to_owned)),
    };
    (Some(packing), path.file_stem().and_then(|stem| extension(Path::new(stem))))
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// The bytes of a file that can be read; `None` where there is no telling.
pub(super) fn size(path: &Path) -> io::Result<Option<u64>> {
    if is_stdin(path) {
        return Ok(None);
    }
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
    }
    // A pipe must not be opened twice.
    if !metadata.is_file() {
        return Ok(None);
    }
    File::open(path).map(|_| Some(metadata.len()))
}

/// An open file, unpacked.
pub(super) struct Input {
    head: Vec<u8>,
    rest: Box<dyn Read + Send>,
}

impl Input {
    /// Opens it; `read` counts the bytes that are taken from it.
    pub(super) fn open(path: &Path, read: &Arc<AtomicU64>) -> io::Result<Input> {
        let file: Box<dyn Read + Send> =
            if is_stdin(path) { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
        let mut file = BufReader::with_capacity(BUFFER_BYTES, Counted { file, read: Arc::clone(read) });
        let packing = extensions(path).0.or(match file.fill_buf()? {
            [0x1f, 0x8b, ..] => Some(Packing::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Packing::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Packing::Zstd),
            _ => None,
        });
        let mut rest: Box<dyn Read + Send> = match packing {
            None => Box::new(file),
            Some(Packing::Gzip) => Box::new(MultiGzDecoder::new(file)),
            Some(Packing::Xz) => Box::new(XzDecoder::new_multi_decoder(file)),
            Some(Packing::Zstd) => Box::new(zstd::Decoder::with_buffer(file)?),
        };
        let mut head = Vec::new();
        // A pipe gives what it has: read on to the end of the first line, which the format is told by.
        let mut chunk = [0; 1024];
        while head.len() < HEAD_BYTES && memchr::memchr(b'\n', head.trim_ascii_start()).is_none() {
            match rest.read(&mut chunk)? {
                0 => break,
                n => head.extend_from_slice(&chunk[..n]),
            }
        }
        if head.starts_with(b"\xef\xbb\xbf") {
            head.drain(..3);
        }
        Ok(Input { head, rest })
    }

    /// What the first bytes say.
    pub(super) fn told_format(&self) -> Result<Format, String> {
        let start = self.head.trim_ascii_start();
        let line = start.split(|&b| b == b'\n').next().unwrap_or_default().trim_ascii_end();
        match start.first() {
            None => Ok(Format::Empty),
            Some(b'[') => Ok(Format::Elements),
            // A value over several lines ends its first one before it is closed.
            Some(b'{') if !line.ends_with(b"}") && line.len() < start.len() => Ok(Format::Elements),
            Some(b'{') => Ok(Format::Lines),
            Some(_) if line.contains(&b'\t') => Ok(Format::Rows { delimiter: b'\t' }),
            Some(_) if line.contains(&b',') => Ok(Format::Rows { delimiter: b',' }),
            Some(_) => {
                Err("cannot tell its format; name it .ndjson, .json, .csv or .tsv (and .gz, .xz or .zst)".to_owned())
            }
        }
    }

    pub(super) fn reader(self) -> impl BufRead + Send + 'static {
        BufReader::with_capacity(BUFFER_BYTES, Cursor::new(self.head).chain(self.rest))
    }
}

struct Counted {
    file: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}
