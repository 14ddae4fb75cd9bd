//! A recount's base in a file: what it has come to, in pieces, with a head that says of what.
//!
//! ```text
//! file:  zstd frame, with a checksum:  u32 length, head  (u32 length, piece)*  u32 0
//! ```
//!
//! **Crash.** A file that is not finished is kept under another name, and is overwritten by the next.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use zstd::stream::read::Decoder;
use zstd::stream::write::Encoder;

/// No piece is longer: one holds a claim, or the values that one line tells apart.
const PIECE_BYTES_MAX: usize = 1 << 30;
const LEVEL: i32 = 1;

/// A base that is being written.
pub struct BaseWriter {
    path: PathBuf,
    encoder: Encoder<'static, BufWriter<File>>,
    /// The first error; nothing is written after it.
    failed: Option<io::Error>,
}

impl BaseWriter {
    /// Begins a file that is to be at `path`.
    pub fn create(path: &Path, head: &[u8]) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let file = BufWriter::new(File::create(unfinished(path))?);
        let mut encoder = Encoder::new(file, LEVEL)?;
        encoder.include_checksum(true)?;
        let mut writer = BaseWriter { path: path.to_owned(), encoder, failed: None };
        writer.piece(head);
        Ok(writer)
    }

    /// Writes a piece. An error is told at the end.
    pub fn piece(&mut self, piece: &[u8]) {
        if self.failed.is_none() {
            let length = (piece.len() as u32).to_le_bytes();
            self.failed = self.encoder.write_all(&length).and_then(|()| self.encoder.write_all(piece)).err();
        }
    }

    /// Ends the file and puts it in its place. It is durable once this has answered.
    pub fn finish(mut self) -> io::Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.encoder.write_all(&0u32.to_le_bytes())?;
        let file = self.encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        std::fs::rename(unfinished(&self.path), &self.path)?;
        self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// A base that is being read.
pub struct BaseReader {
    decoder: Decoder<'static, BufReader<File>>,
    piece: Vec<u8>,
}

impl BaseReader {
    /// Opens a file; its head.
    pub fn open(path: &Path) -> io::Result<(Self, Vec<u8>)> {
        let mut reader = BaseReader { decoder: Decoder::new(File::open(path)?)?, piece: Vec::new() };
        let head = reader.next_piece()?.ok_or_else(|| damaged("it has no head"))?.to_vec();
        Ok((reader, head))
    }

    /// The next piece; `None`: that was the last, and all were as they were written.
    pub fn next_piece(&mut self) -> io::Result<Option<&[u8]>> {
        let mut length = [0; 4];
        self.decoder.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length == 0 {
            // Reading on to the end has the checksum compared.
            let more = self.decoder.read(&mut [0])?;
            return if more == 0 { Ok(None) } else { Err(damaged("something follows its end")) };
        }
        if length > PIECE_BYTES_MAX {
            return Err(damaged("a piece is too long"));
        }
        self.piece.clear();
        let read = self.decoder.by_ref().take(length as u64).read_to_end(&mut self.piece)?;
        if read == length { Ok(Some(&self.piece)) } else { Err(damaged("it ends in the midst of a piece")) }
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> io::Result<Vec<Vec<u8>>> {
        let (mut reader, head) = BaseReader::open(path)?;
        let mut all = vec![head];
        while let Some(piece) = reader.next_piece()? {
            all.push(piece.to_vec());
        }
        Ok(all)
    }

    #[test]
    fn pieces_come_back_and_a_changed_or_cut_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("of-a-job/1.base");
        let pieces: Vec<Vec<u8>> = (0..200u32).map(|n| n.to_le_bytes().repeat(n as usize + 1)).collect();
        let mut writer = BaseWriter::create(&path, &pieces[0]).unwrap();
        pieces[1..].iter().for_each(|piece| writer.piece(piece));
        assert!(!path.exists());
        writer.finish().unwrap();
        assert_eq!(read(&path).unwrap(), pieces);
        let bytes = std::fs::read(&path).unwrap();
        for at in (0..bytes.len()).step_by(7) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            std::fs::write(&path, &changed).unwrap();
            assert!(read(&path).is_err() || read(&path).unwrap() == pieces, "byte {at}");
            std::fs::write(&path, &bytes[..at]).unwrap();
            assert!(read(&path).is_err(), "cut at {at}");
        }
    }
}
