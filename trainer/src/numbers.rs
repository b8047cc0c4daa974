//! Numbers of the command line, and what is said about what is none.

use std::num::IntErrorKind;

/// A whole number from 0 on, as large as a run file can hold it.
pub fn whole<N: TryFrom<i64>>(text: &str) -> Result<N, String> {
    let number = text.parse::<i64>();
    if number.as_ref().is_err_and(|error| *error.kind() == IntErrorKind::PosOverflow) {
        return Err(format!("expected at most {}", i64::MAX));
    }
    let number = number.ok().and_then(|number| N::try_from(number).ok());
    number.ok_or_else(|| "expected a whole number from 0 on".to_owned())
}

/// A number with or without a fraction.
pub fn decimal(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "expected a number, such as 0.001 or 1e-3".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_told_what_is() {
        assert_eq!(whole::<u64>("0"), Ok(0));
        assert_eq!(whole::<usize>("9223372036854775807"), Ok(i64::MAX as usize));
        for wrong in ["-1", "", "1.5", "ten"] {
            assert!(whole::<u64>(wrong).unwrap_err().contains("from 0 on"), "{wrong}");
        }
        assert!(whole::<u64>("9223372036854775808").unwrap_err().contains("at most"));
        assert_eq!(decimal("-1e-3"), Ok(-1e-3));
        assert!(decimal("1,5").unwrap_err().contains("such as"));
    }
}
