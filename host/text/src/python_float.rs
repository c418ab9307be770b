//! Writes a float as Python does: its shortest digits, with an exponent where it is below -4 or above 15.

pub(crate) fn python_float(value: f64) -> String {
    if !value.is_finite() {
        let sign = if value < 0.0 { "-" } else { "" };
        return if value.is_nan() { "NaN".to_owned() } else { format!("{sign}Infinity") };
    }
    let shortest = format!("{value:e}");
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    match exponent.parse::<i32>().unwrap_or_default() {
        -4..16 => format!("{value:?}"),
        exponent => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_look_like_pythons() {
        let check = |value, expected: &str| assert_eq!(python_float(value), expected);
        check(0.0, "0.0");
        check(-0.0, "-0.0");
        check(1.0, "1.0");
        check(0.1, "0.1");
        check(0.0001, "0.0001");
        check(0.000_01, "1e-05");
        check(1.5e-7, "1.5e-07");
        check(123_456_789.25, "123456789.25");
        check(1e15, "1000000000000000.0");
        check(1e16, "1e+16");
        check(-1.234_567_890_123_456_8e+17, "-1.2345678901234568e+17");
        check(5e-324, "5e-324");
        check(f64::NEG_INFINITY, "-Infinity");
        check(f64::NAN, "NaN");
    }
}
