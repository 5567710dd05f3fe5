//! The .netsy reader: Records, Chunks and Snapshots from any bytes.
//! What must hold is in `netsy::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netsy::fuzzing::datafile(data));
