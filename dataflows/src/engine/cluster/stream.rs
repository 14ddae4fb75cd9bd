//! A connection as timely's threads use it. They panic where it ends; here they wait until the engine is
//! closed, and then find the orderly end that they expect.

use crate::engine::cluster::Wire;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use timely::communication::allocator::zero_copy::stream::Stream;

/// What precedes each of timely's messages: six numbers (u64, big endian), of which the fifth is the length
/// of what follows. One without a length is the last.
const HEAD: usize = 48;

/// See the module.
pub struct DataStream {
    socket: TcpStream,
    peer: usize,
    wire: Arc<Wire>,
    /// How far reading is in a message.
    at: Arc<Mutex<At>>,
}

#[derive(Default)]
struct At {
    head: Vec<u8>,
    /// Bytes of the message that are still to come.
    left: u64,
    /// Bytes of the last head that are still to be read, once the connection has ended.
    end: Option<usize>,
}

impl At {
    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let passed = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= passed as u64;
                bytes = &bytes[passed..];
                continue;
            }
            let (head, rest) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
            self.head.extend(head);
            bytes = rest;
            if let Some(length) = self.head.get(32..40).filter(|_| self.head.len() == HEAD) {
                self.left = u64::from_be_bytes(length.try_into().unwrap_or_default());
                self.head.clear();
                if self.left == 0 {
                    // The other side has ended in order, or this head was cut before its length.
                    self.end = Some(0);
                }
            }
        }
    }

    /// What is to be read instead of what will never come: zeros to the end of the message, and a head of
    /// zeros. A head that was cut short gets no targets by them.
    fn pad(&mut self, buffer: &mut [u8]) -> usize {
        let wanted = match self.end {
            Some(left) => left,
            None if self.left > 0 => usize::try_from(self.left).unwrap_or(usize::MAX),
            None if !self.head.is_empty() => HEAD - self.head.len(),
            None => *self.end.insert(HEAD),
        };
        let given = buffer.len().min(wanted);
        buffer[..given].fill(0);
        match &mut self.end {
            Some(left) => *left -= given,
            None => self.pass(&buffer[..given]),
        }
        given
    }
}

impl DataStream {
    pub fn new(socket: TcpStream, peer: usize, wire: Arc<Wire>) -> Self {
        DataStream { socket, peer, wire, at: Arc::default() }
    }
}

impl Read for DataStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        while at.end.is_none() && !self.wire.is_closed() {
            match self.socket.read(buffer) {
                Ok(read) if read > 0 => {
                    at.pass(&buffer[..read]);
                    self.wire.heard(self.peer);
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                ended => {
                    let why = ended.err().map_or("it was closed".to_owned(), |error| error.to_string());
                    self.wire.cut(self.peer, &why);
                    self.wire.wait_closed();
                }
            }
        }
        Ok(at.pad(buffer))
    }
}

impl Write for DataStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self.socket.write(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Ok(0) | Err(_) => {
                self.wire.cut(self.peer, "writing failed");
                Ok(buffer.len())
            }
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for DataStream {
    fn try_clone(&self) -> io::Result<Self> {
        let (wire, at) = (self.wire.clone(), self.at.clone());
        Ok(DataStream { socket: self.socket.try_clone()?, peer: self.peer, wire, at })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        // It may have ended before.
        self.socket.shutdown(how).ok();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [7, 1, 2, 3, length, 9] {
            bytes.extend(u64::to_be_bytes(number));
        }
        bytes.extend(std::iter::repeat_n(5, length as usize));
        bytes
    }

    #[test]
    fn a_connection_that_is_cut_anywhere_ends_with_a_whole_message_and_a_last_head() {
        let mut sent = message(10);
        sent.extend(message(1));
        sent.extend(message(0));
        for cut in 0..=sent.len() {
            for step in [1, 7, 1000] {
                let mut at = At::default();
                sent[..cut].chunks(step).for_each(|bytes| at.pass(bytes));
                let mut read = sent[..cut].to_vec();
                loop {
                    let mut buffer = vec![1; step];
                    let given = at.pad(&mut buffer);
                    if given == 0 {
                        break;
                    }
                    read.extend(&buffer[..given]);
                }
                let mut rest = read.as_slice();
                loop {
                    let (head, after) = rest.split_at(HEAD);
                    let length = u64::from_be_bytes(head[32..40].try_into().unwrap()) as usize;
                    rest = &after[length..];
                    if length == 0 {
                        break;
                    }
                }
                assert!(rest.is_empty(), "cut at {cut}, read by {step}: {} bytes left", rest.len());
            }
        }
    }
}
