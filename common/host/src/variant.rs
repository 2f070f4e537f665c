//! The name of an enum's variant, as a label and for the log: `SetXattr { ... }` is `set_xattr`.

use std::fmt::{self, Debug, Write};

/// Letters that are kept: more than the longest name of a message has.
const LETTERS: usize = 40;

/// A name in lower case.
#[derive(Clone, Copy)]
pub struct VariantName {
    letters: [u8; LETTERS],
    length: usize,
}

impl VariantName {
    /// Of a value whose `Debug` is derived, which begins with the name. What comes after it is never formatted.
    pub fn of(value: &dyn Debug) -> Self {
        let mut name = Self { letters: [0; LETTERS], length: 0 };
        // Ends with an error after the name.
        let _ = write!(name, "{value:?}");
        name
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.letters[..self.length]).unwrap_or_default()
    }

    fn push(&mut self, letter: u8) -> fmt::Result {
        *self.letters.get_mut(self.length).ok_or(fmt::Error)? = letter;
        self.length += 1;
        Ok(())
    }
}

impl Write for VariantName {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            match byte {
                b'A'..=b'Z' => {
                    if self.length > 0 {
                        self.push(b'_')?;
                    }
                    self.push(byte.to_ascii_lowercase())?;
                }
                b'a'..=b'z' | b'0'..=b'9' => self.push(byte)?,
                _ => return Err(fmt::Error),
            }
        }
        Ok(())
    }
}

impl fmt::Display for VariantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Debug for VariantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(dead_code)]
    fn names_are_taken_from_variants() {
        #[derive(Debug)]
        enum Message {
            Ping,
            SetXattr { ino: u64 },
            Read(u32, u32),
            AVeryLongNameThatNobodyWouldGiveToAMessageOfAnyKind,
        }
        assert_eq!(VariantName::of(&Message::Ping).as_str(), "ping");
        assert_eq!(VariantName::of(&Message::SetXattr { ino: 1 }).as_str(), "set_xattr");
        assert_eq!(VariantName::of(&Message::Read(1, 2)).to_string(), "read");
        let long = VariantName::of(&Message::AVeryLongNameThatNobodyWouldGiveToAMessageOfAnyKind);
        assert_eq!(long.as_str().len(), LETTERS);
    }
}
