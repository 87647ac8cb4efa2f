//! Kubernetes quantities, as far as they count bytes: "M" is a million. (The command
//! line's amounts are Docker's, where it is 2^20.)

/// Suffixes and what they stand for.
const UNITS: [(&str, u64); 11] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("", 1),
];

/// A whole number of bytes with a suffix or without one: "5Gi", "500M", "1048576".
///
/// # Errors
/// What is wrong with it. Fractions and exponents, which Kubernetes takes too, are not
/// understood.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let unit = UNITS.iter().find(|(name, _)| *name == suffix);
    let (Some((_, unit)), true) = (unit, digits > 0) else {
        return Err("not a whole number of bytes, such as 5Gi or 500M".to_owned());
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*unit))
        .ok_or_else(|| "too large a number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_text_is_a_number_or_refused(text in "\\PC{0,40}", number: u32) {
            let _ = bytes(&text);
            proptest::prop_assert_eq!(bytes(&number.to_string()), Ok(number.into()));
        }
    }

    #[test]
    fn numbers_and_units() {
        for (text, value) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("5Gi", 5 << 30),
            ("2Ki", 2048),
            ("500M", 500_000_000),
            ("7k", 7000),
            ("15Pi", 15 << 50),
        ] {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        for text in [
            "",
            "Gi",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1.5Gi",
            "1e3",
            "1gi",
            "1GiB",
            "0x10",
            "99999999999999999999",
            "18446744073709551615Ki",
            "١",
        ] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
