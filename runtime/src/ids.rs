//! Ids of pods, containers and execs.

use crate::error::{Error, Result};

/// A new id: 64 hexadecimal digits, 256 bits from the kernel's random source, so
/// that nobody can guess one and no two are ever alike.
///
/// # Errors
/// When the kernel gives no random bytes (getrandom(2)).
pub fn new_id() -> Result<String> {
    let mut bytes = [0u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(|errno| Error::internal(format!("get random bytes for an id: {errno}")))?;
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_64_hexadecimal_digits_and_differ() {
        let id = new_id().unwrap();
        assert_eq!(id.len(), 64);
        assert!(
            id.bytes()
                .all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
        );
        assert_ne!(id, new_id().unwrap());
    }
}
