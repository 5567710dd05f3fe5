//! A RangeRequest from the wire, translated and answered.
//! What must hold is in `netsy::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netsy::fuzzing::range(data));
