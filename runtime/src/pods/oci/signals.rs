//! Signals: the CRI numbers them by alphabet, Linux by history (signal(7)).

use crate::error::{Error, Result};

/// What ends most programs politely.
pub(super) const SIGTERM: u32 = 15;

/// Linux numbers on x86-64, in the order of the CRI's numbers from 1.
const BY_CRI_NUMBER: [(&str, u32); 34] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
];

/// First and last real-time signal, as libc counts them.
const RT: (u32, u32) = (34, 64);
/// The CRI's number of the first.
const CRI_RTMIN: u32 = 35;

/// The Linux signal of a CRI number; `None` for "the runtime's default".
pub(super) fn of_cri(number: i32) -> Result<Option<u32>> {
    let unknown = || Error::invalid(format!("unknown stop signal {number}"));
    let number = u32::try_from(number).map_err(|_| unknown())?;
    match number {
        0 => Ok(None),
        1..CRI_RTMIN => {
            let index = usize::try_from(number - 1).map_err(|_| unknown())?;
            BY_CRI_NUMBER
                .get(index)
                .map(|(_, linux)| Some(*linux))
                .ok_or_else(unknown)
        }
        // RTMIN, RTMIN+1 … RTMIN+15, RTMAX-14 … RTMAX: 34 … 64 without a gap.
        _ => Some(number - CRI_RTMIN + RT.0)
            .filter(|it| *it <= RT.1)
            .map(Some)
            .ok_or_else(unknown),
    }
}

/// The CRI number of a Linux signal; 0 where there is none.
pub(super) fn to_cri(linux: u32) -> i32 {
    let plain = BY_CRI_NUMBER
        .iter()
        .position(|(_, number)| *number == linux);
    let number = match plain {
        Some(index) => u32::try_from(index + 1).unwrap_or(0),
        None if (RT.0..=RT.1).contains(&linux) => linux - RT.0 + CRI_RTMIN,
        None => 0,
    };
    i32::try_from(number).unwrap_or(0)
}

/// An image's STOPSIGNAL: "SIGTERM", "TERM", "15", "SIGRTMIN+3".
pub(super) fn parse(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=RT.1).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = BY_CRI_NUMBER.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        match rest.strip_prefix('+') {
            Some(plus) => RT.0.checked_add(plus.parse().ok()?)?,
            None => rest.is_empty().then_some(RT.0)?,
        }
    } else {
        let rest = name.strip_prefix("RTMAX")?;
        match rest.strip_prefix('-') {
            Some(minus) => RT.1.checked_sub(minus.parse().ok()?)?,
            None => rest.is_empty().then_some(RT.1)?,
        }
    };
    (RT.0..=RT.1).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_cri_api::v1::Signal;

    #[test]
    fn the_cris_numbers_are_translated_by_name() {
        for (signal, linux) in [
            (Signal::Sigterm, 15),
            (Signal::Sigkill, 9),
            (Signal::Sighup, 1),
            (Signal::Sigusr1, 10),
            (Signal::Sigxfsz, 25),
            (Signal::Sigrtmin, 34),
            (Signal::Sigrtminplus15, 49),
            (Signal::Sigrtmaxminus14, 50),
            (Signal::Sigrtmax, 64),
        ] {
            assert_eq!(of_cri(signal as i32).unwrap(), Some(linux), "{signal:?}");
            assert_eq!(to_cri(linux), signal as i32, "{signal:?}");
        }
        assert_eq!(of_cri(0).unwrap(), None);
        assert_eq!(to_cri(0), 0);
        for bad in [-1, 66, i32::MAX] {
            assert!(of_cri(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn images_name_signals_in_many_ways() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMIN", 34),
            ("SIGRTMAX-1", 63),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for bad in [
            "", "0", "65", "SIG", "SIGFOO", "RTMIN+31", "RTMIN-1", "RTMAX-31", "-9",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
