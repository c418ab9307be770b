//! GPT-2's way to write any byte as a visible character: printable Latin-1 stands for itself, the 68 others for the
//! characters from 256 on, in order.

/// Index: byte.
const CHARACTERS: [char; 256] = characters();
/// Index: character.
const BYTES: [Option<u8>; 512] = bytes();

pub(crate) fn byte_of(c: char) -> Option<u8> {
    BYTES.get(c as usize).copied().flatten()
}

pub(crate) fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| CHARACTERS[usize::from(byte)]).collect()
}

/// `None` if some character stands for no byte.
pub(crate) fn read(name: &str) -> Option<Vec<u8>> {
    name.chars().map(byte_of).collect()
}

/// The first byte that is no token by itself, so that some text could not be written.
pub(crate) fn missing_byte(has: impl Fn(&str) -> bool) -> Option<u8> {
    (0..=255).find(|&byte| !has(&spell(&[byte])))
}

const fn characters() -> [char; 256] {
    let mut characters = ['\0'; 256];
    let (mut byte, mut next) = (0_u8, 'Ā');
    loop {
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            characters[byte as usize] = byte as char;
        } else {
            characters[byte as usize] = next;
            next = match char::from_u32(next as u32 + 1) {
                Some(following) => following,
                None => next,
            };
        }
        if byte == u8::MAX {
            return characters;
        }
        byte += 1;
    }
}

const fn bytes() -> [Option<u8>; 512] {
    let mut bytes = [None; 512];
    let mut byte = 0_u8;
    loop {
        bytes[CHARACTERS[byte as usize] as usize] = Some(byte);
        if byte == u8::MAX {
            return bytes;
        }
        byte += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(read(&spell(&all)), Some(all));
        assert_eq!(spell(b"a b\n\xAD"), "aĠbĊŃ");
        assert_eq!(read("日"), None);
        assert_eq!(missing_byte(|name| name != "Ċ"), Some(b'\n'));
        assert_eq!(missing_byte(|_| true), None);
    }
}
