//! Writes strings and numbers into a JSON document, without allocating.

use std::fmt::Write;

use bytes::{BufMut, BytesMut};

const HEX: &[u8; 16] = b"0123456789abcdef";
/// Stands for a log-probability of minus infinity, which JSON cannot say; so it does in vLLM.
const LOWEST_LOGPROB: f32 = -9999.0;

/// Appends a whole JSON string.
pub(crate) fn string(out: &mut BytesMut, text: &str) {
    out.put_u8(b'"');
    escape(out, text);
    out.put_u8(b'"');
}

/// Appends a log-probability in the fewest digits that read back as the same number.
pub(crate) fn logprob(out: &mut BytesMut, logprob: f32) {
    let known = if logprob.is_nan() { LOWEST_LOGPROB } else { logprob };
    // A sum with zero has no negative zero, which clients would read as an integer.
    let finite = known.clamp(LOWEST_LOGPROB, 0.0) + 0.0;
    // A buffer of bytes grows, so nothing can fail.
    let _written = write!(out, "{finite:?}");
}

/// Appends a list of bytes as numbers.
pub(crate) fn byte_list(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u8(b'[');
    for (index, byte) in bytes.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let _written = write!(out, "{comma}{byte}");
    }
    out.put_u8(b']');
}

/// Appends `text` as the inside of a JSON string.
pub(crate) fn escape(out: &mut BytesMut, text: &str) {
    let bytes = text.as_bytes();
    let mut clean = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.put_slice(&bytes[clean..index]);
        clean = index + 1;
        match byte {
            b'"' => out.put_slice(b"\\\""),
            b'\\' => out.put_slice(b"\\\\"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            _ => {
                out.put_slice(b"\\u00");
                out.put_u8(HEX[usize::from(byte >> 4)]);
                out.put_u8(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.put_slice(&bytes[clean..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_json_cannot_say_of_a_logprob_is_finite() {
        for (number, text) in [
            (f32::NEG_INFINITY, "-9999.0"),
            (f32::NAN, "-9999.0"),
            (-0.0, "0.0"),
            (1e-7, "0.0"),
            (-1e-7, "-1e-7"),
            (-1.5, "-1.5"),
        ] {
            let mut out = BytesMut::new();
            logprob(&mut out, number);
            assert_eq!(out, text.as_bytes(), "{number}");
        }
    }

    proptest! {
        #[test]
        fn a_logprob_reads_back_to_the_bit(number in -9999.0f32..=-f32::MIN_POSITIVE) {
            let mut out = BytesMut::new();
            logprob(&mut out, number);
            let text = std::str::from_utf8(&out).unwrap();
            prop_assert_eq!(text.parse::<f32>().unwrap().to_bits(), number.to_bits());
            prop_assert!(serde_json::from_str::<f64>(text).is_ok());
        }

        #[test]
        fn bytes_read_back(bytes in any::<Vec<u8>>()) {
            let mut out = BytesMut::new();
            byte_list(&mut out, &bytes);
            prop_assert_eq!(serde_json::from_slice::<Vec<u8>>(&out).unwrap(), bytes);
        }

        #[test]
        fn what_is_escaped_reads_back(text in any::<String>(), control in "[\u{0}-\u{20}\"\\\\a-c]*") {
            for text in [text, control] {
                let mut out = BytesMut::from(&b"\""[..]);
                escape(&mut out, &text);
                out.put_u8(b'"');
                prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            }
        }
    }
}
