//! The documents of the bucket, and a Node that finds them.
//! What must hold is in `netsy::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netsy::fuzzing::documents(data));
