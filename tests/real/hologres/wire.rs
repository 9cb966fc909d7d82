//! The PostgreSQL protocol, as far as a proxy has to understand it: messages, and the arrays that a Bind carries.

use std::io::{BufReader, BufWriter, Read, Result, Write};
use std::net::{Shutdown, TcpStream};

/// One end of a connection.
pub struct Way {
    from: BufReader<TcpStream>,
    to: BufWriter<TcpStream>,
}

impl Way {
    pub fn new(stream: TcpStream) -> Way {
        stream.set_nodelay(true).unwrap();
        Way { from: BufReader::new(stream.try_clone().unwrap()), to: BufWriter::new(stream) }
    }

    /// The first message, which has no tag; with its length.
    pub fn startup(&mut self) -> Result<Vec<u8>> {
        let mut message = vec![0; 4];
        self.from.read_exact(&mut message)?;
        let length = u32::from_be_bytes(message[..4].try_into().unwrap()) as usize;
        message.resize(length, 0);
        self.from.read_exact(&mut message[4..])?;
        Ok(message)
    }

    /// The next message.
    pub fn message(&mut self) -> Result<Message> {
        let mut head = [0; 5];
        self.from.read_exact(&mut head)?;
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4;
        let mut body = vec![0; length];
        self.from.read_exact(&mut body)?;
        Ok(Message { tag: head[0], body })
    }

    /// Sends messages; flushes what ends a request, and nothing else.
    pub fn send(&mut self, messages: &[Message]) -> Result<()> {
        for message in messages {
            self.to.write_all(&[message.tag])?;
            self.to.write_all(&(message.body.len() as u32 + 4).to_be_bytes())?;
            self.to.write_all(&message.body)?;
        }
        match messages.last().map(|message| message.tag) {
            Some(b'S' | b'Q' | b'X' | b'H') => self.flush(),
            _ => Ok(()),
        }
    }

    pub fn flush(&mut self) -> Result<()> {
        self.to.flush()
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes)?;
        self.to.flush()
    }

    pub fn close(&mut self) {
        let _ = self.to.get_ref().shutdown(Shutdown::Both);
    }
}

/// A message without its length.
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// The bytes from `at` up to the next zero byte.
    pub fn bytes_at(&self, at: usize) -> &[u8] {
        let rest = &self.body[at..];
        &rest[..rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len())]
    }

    pub fn text(&self, at: usize) -> String {
        String::from_utf8_lossy(self.bytes_at(at)).into_owned()
    }

    pub fn replace_text(&mut self, at: usize, text: &str) {
        let end = at + self.bytes_at(at).len();
        self.body.splice(at..end, text.bytes());
    }

    /// Of a CommandComplete: makes the count of rows 0.
    pub fn forget_count(&mut self) {
        let said = self.text(0);
        if let Some((what @ ("INSERT 0" | "UPDATE" | "DELETE"), _)) = said.rsplit_once(' ') {
            self.body = format!("{what} 0\0").into_bytes();
        }
    }

    /// Of a Bind: of all its arrays, if it has nothing but arrays of one length, keeps the elements that `keeps` says;
    /// else everything stays.
    pub fn keep_rows(&mut self, mut keeps: impl FnMut(usize) -> bool) {
        let head = self.head_of_values();
        let Some((arrays, rest)) = arrays(&self.body[head + 2..], short(&self.body[head..])) else { return };
        let rows = arrays.first().map_or(0, |array| array.elements.len());
        if arrays.iter().any(|array| array.elements.len() != rows) {
            return;
        }
        let kept: Vec<usize> = (0..rows).filter(|row| keeps(*row)).collect();
        let mut body = self.body[..head + 2].to_vec();
        for array in &arrays {
            let mut value = array.head.to_vec();
            value.extend((kept.len() as u32).to_be_bytes());
            value.extend(1u32.to_be_bytes());
            kept.iter().for_each(|row| value.extend(array.elements[*row]));
            body.extend((value.len() as u32).to_be_bytes());
            body.extend(value);
        }
        body.extend(rest);
        self.body = body;
    }

    /// Of a Bind: where the number of its values stands.
    fn head_of_values(&self) -> usize {
        let portal = self.bytes_at(0).len() + 1;
        let statement = portal + self.bytes_at(portal).len() + 1;
        statement + 2 + 2 * short(&self.body[statement..])
    }
}

fn short(bytes: &[u8]) -> usize {
    u16::from_be_bytes(bytes[..2].try_into().unwrap()) as usize
}

fn long(bytes: &[u8]) -> i32 {
    i32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// A binary array of one dimension.
struct Array<'a> {
    /// Dimensions, flags, type of the elements.
    head: &'a [u8],
    /// Each with its length.
    elements: Vec<&'a [u8]>,
}

/// The arrays, if nothing but arrays comes, and what comes behind them.
fn arrays(mut bytes: &[u8], count: usize) -> Option<(Vec<Array<'_>>, &[u8])> {
    let mut arrays = Vec::new();
    for _ in 0..count {
        let length = usize::try_from(long(bytes)).ok()?;
        let (value, rest) = bytes[4..].split_at_checked(length)?;
        bytes = rest;
        if value.len() < 20 || long(value) != 1 || !matches!(long(&value[4..]), 0 | 1) {
            return None;
        }
        let (head, mut left) = (&value[..12], &value[20..]);
        let mut elements = Vec::new();
        for _ in 0..long(&value[12..]) {
            let length = long(left.get(..4)?).max(0) as usize;
            let (element, rest) = left.split_at_checked(4 + length)?;
            elements.push(element);
            left = rest;
        }
        if !left.is_empty() {
            return None;
        }
        arrays.push(Array { head, elements });
    }
    Some((arrays, bytes))
}

/// An error and that the next request may come.
pub fn refusal(code: &str, said: &str) -> Vec<u8> {
    let fields = format!("SERROR\0VERROR\0C{code}\0M{said}\0\0");
    let mut message = vec![b'E'];
    message.extend((fields.len() as u32 + 4).to_be_bytes());
    message.extend(fields.bytes());
    message.extend(b"Z\0\0\0\x05I");
    message
}

pub fn asks_for_encryption(startup: &[u8]) -> bool {
    matches!(long(&startup[4..]), 80_877_103 | 80_877_104)
}

pub fn is_cancel(startup: &[u8]) -> bool {
    long(&startup[4..]) == 80_877_102
}

/// A startup message with one more setting.
pub fn with_setting(startup: &[u8], name: &str, value: &str) -> Vec<u8> {
    if is_cancel(startup) {
        return startup.to_vec();
    }
    let mut message = startup[..startup.len() - 1].to_vec();
    message.extend(format!("{name}\0{value}\0\0").bytes());
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_be_bytes());
    message
}
